"""Take a filled template apart: every way in which it can be wrong has a message of its own."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from benchmarks.submissions.card import SubmissionCard, read_submission_card
from benchmarks.submissions.layout import (
    FAILED,
    FORMAT,
    HEADER,
    LENGTH_UNIT,
    PREDICTIONS,
    STATE_DATASETS,
    SUBMISSION,
    UNIT,
    Template,
)
from benchmarks.submissions.safe_hdf5 import (
    checked_datasets,
    read_attribute,
    read_values,
    reading,
)
from tg80.errors import UserError

_AGAIN = "begin with the template again"
_AXES = {"E": "entries", "P": "lags", "N": "atoms", "3": "x, y, z"}
_KINDS = {"S": "texts", "f": "real numbers", "iu": "whole numbers", "b": "true or false"}
_TEXT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+,()'@/-]{0,99}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+,()'-]{0,99}")


@dataclass(frozen=True)
class Submission:
    """A filled template: predictions (E, P, N, 3) A in the template's frames, failed (E,) bool.

    Attributes:
        path: where its bytes are. shown: what messages call it, the archive it came in.
    """

    path: Path
    shown: Path
    template: Template
    predictions: np.ndarray
    failed: np.ndarray
    card: SubmissionCard

    @property
    def sha256(self) -> str:
        """Hash of what was sent in, however it is stored."""
        digest = hashlib.sha256(f"{self.template.id}\n{self.card.model_dump_json()}\n".encode())
        digest.update(np.ascontiguousarray(self.predictions, dtype="<f8").tobytes())
        digest.update(self.failed.astype("u1").tobytes())
        return digest.hexdigest()

    @property
    def predictions_sha256(self) -> str:
        """Hash of what is scored, whatever is told of the model."""
        kept = self.template.score_mask[:, None, :, None] & ~self.failed[:, None, None, None]
        digest = hashlib.sha256(f"{self.template.id}\n".encode())
        digest.update(np.where(kept, self.predictions, 0.0).astype("<f4").tobytes())
        digest.update(self.failed.astype("u1").tobytes())
        return digest.hexdigest()


def parse(source: Path, shown: Path) -> Submission:
    """Read all that a filled template holds.

    Args:
        shown: what messages call the file.

    Raises:
        UserError: it is not as it was handed out, or predictions are missing or of a wrong kind.
    """
    path = shown
    with reading(source, path) as file:
        datasets = {*STATE_DATASETS, PREDICTIONS, *({FAILED} & set(file))}
        _check_format(file, path)
        found = checked_datasets(file, path, datasets, {SUBMISSION})
        template = _read_template(file, found, path)
        predictions = _read_predictions(found[PREDICTIONS], path, template)
        failed = _read_failed(found.get(FAILED), path, len(template))
        card = read_submission_card(file, path)
    return Submission(source, path, template, predictions, failed, card)


def _check_format(file: h5py.File, path: Path) -> None:
    found = read_attribute(file, "format", path)
    if found is None:
        raise UserError(f"{path}: no template of `atom-bench template`; fill in one of these")
    if found != FORMAT:
        raise UserError(f"{path}: format is {str(found)[:60]!r}, here {FORMAT!r}; {_AGAIN}")


def _read_template(file: h5py.File, datasets: Mapping[str, h5py.Dataset], path: Path) -> Template:
    header: dict[str, Any] = {name: read_attribute(file, name, path) for name in HEADER}
    for name, kind in HEADER.items():
        if not isinstance(header[name], kind):
            raise UserError(f"{path}: attribute {name!r} is missing or altered; {_AGAIN}")
        # It is printed, and names folders.
        if kind is str and not _TEXT.fullmatch(header[name]):
            raise UserError(
                f"{path}: attribute {name!r} is {header[name][:40]!r}, no name; {_AGAIN}"
            )
    arrays = {name: _read_state(datasets[name], name, path) for name in STATE_DATASETS}
    _check_shapes(arrays, path)
    entry = arrays["entry"]
    if len(set(entry.tolist())) < len(entry):
        names, counts = np.unique(entry, return_counts=True)
        raise UserError(
            f"{path}: entry {names[counts.argmax()]} stands there {counts.max()} times; {_AGAIN}"
        )
    if len(entry) != header["n_entries"]:
        kind = "missing" if len(entry) < header["n_entries"] else "too many"
        raise UserError(
            f"{path}: {len(entry)} entries, the template has {header['n_entries']}: "
            f"{abs(len(entry) - header['n_entries'])} are {kind}; {_AGAIN}"
        )
    template = Template(header=header, **arrays)
    told = read_attribute(file, "id", path)
    if told != template.id:
        raise UserError(
            f"{path}: id {str(told)[:40]!r} is not that of this content ({template.id}): it is "
            f"another template's, or task, fold, entries, states or lags were altered; {_AGAIN}"
        )
    return template


def _read_state(dataset: h5py.Dataset, name: str, path: Path) -> np.ndarray:
    kinds, axes, unit = STATE_DATASETS[name]
    if dataset.dtype.kind not in kinds:
        raise UserError(f"{path}: {name!r} holds {dataset.dtype}, not {_KINDS[kinds]}; {_AGAIN}")
    if dataset.shape is None or len(dataset.shape) != len(axes):
        raise UserError(f"{path}: {name!r} has shape {dataset.shape}, not {_order(axes)}; {_AGAIN}")
    if unit and (found := read_attribute(dataset, UNIT, path)) != unit:
        raise UserError(
            f"{path}: {UNIT} of {name!r} is {str(found)[:40]!r}, not {unit!r}; {_AGAIN}"
        )
    values = read_values(dataset)
    if kinds == "S":
        texts = [bytes(value).decode("ascii", "replace") for value in values]
        if not all(_NAME.fullmatch(text) for text in texts):
            raise UserError(f"{path}: {name!r} holds texts that are no names; {_AGAIN}")
        return np.array(texts)
    if kinds == "f" and not np.isfinite(values).all():
        raise UserError(f"{path}: {name!r} holds numbers that are not finite; {_AGAIN}")
    return values


def _check_shapes(arrays: dict[str, np.ndarray], path: Path) -> None:
    n_atoms = arrays["positions"].shape[1]
    size = {"E": len(arrays["entry"]), "N": n_atoms, "P": len(arrays["lags_fs"]), "3": 3}
    for name, (_, axes, _) in STATE_DATASETS.items():
        wanted = tuple(size[axis] for axis in axes)
        if arrays[name].shape != wanted or 0 in wanted:
            raise UserError(
                f"{path}: {name!r} has shape {arrays[name].shape}, the other datasets want "
                f"{wanted}; {_AGAIN}"
            )
    if not arrays["score_mask"].any(1).all():
        raise UserError(f"{path}: 'score_mask' has an entry without scored atoms; {_AGAIN}")


def _read_predictions(dataset: h5py.Dataset, path: Path, template: Template) -> np.ndarray:
    _check_number_type(dataset.dtype, path)
    if dataset.shape != template.shape:
        told = _shape_mistake(dataset.shape, template.shape)
        raise UserError(
            f"{path}: {PREDICTIONS!r} has shape {dataset.shape}, not {template.shape}: {told}"
        )
    unit = read_attribute(dataset, UNIT, path)
    if unit is None:
        raise UserError(
            f"{path}: {PREDICTIONS!r} has no attribute {UNIT!r}; give positions in angstrom and "
            f"set it to {LENGTH_UNIT!r}"
        )
    if unit != LENGTH_UNIT:
        raise UserError(
            f"{path}: {UNIT} of {PREDICTIONS!r} is {str(unit)[:40]!r}; convert the positions to "
            f"angstrom and set it to {LENGTH_UNIT!r}"
        )
    return read_values(dataset).astype(np.float64)


def _check_number_type(dtype: np.dtype, path: Path) -> None:
    advice = "write float32 or float64"
    if dtype.kind == "f" and dtype.itemsize in (4, 8):
        return
    if dtype.kind == "f" and dtype.itemsize < 4:
        why = f"{dtype}, which has three digits: too coarse for short lags"
    elif dtype.kind in "iub":
        why = f"whole numbers ({dtype}); positions have fractions"
    else:
        why = f"{dtype}, not plain numbers"
    raise UserError(f"{path}: {PREDICTIONS!r} holds {why}; {advice}")


def _shape_mistake(found: tuple[int, ...] | None, wanted: tuple[int, ...]) -> str:
    """What a wrong shape probably is, and what to do."""
    axes = "EPN3"
    if found is None or 0 in found:
        return "nothing was written; write positions for every entry"
    if len(found) != len(wanted):
        return f"{len(found)} axes in place of 4; the axes are {_order(axes)}"
    for order in permutations(range(4)):
        if found == tuple(wanted[i] for i in order):
            return (
                f"axes swapped, they look like {_order(''.join(axes[i] for i in order))}; "
                f"transpose to {_order(axes)}"
            )
    first = next(i for i in range(4) if found[i] != wanted[i])
    change = "missing" if found[first] < wanted[first] else "too many"
    number = abs(found[first] - wanted[first])
    what = {0: "entries", 1: "lags", 2: "atoms (padding is kept)", 3: "coordinates"}[first]
    return f"{number} {what} {change}; one row for each in the order of the template"


def _read_failed(dataset: h5py.Dataset | None, path: Path, n_entries: int) -> np.ndarray:
    if dataset is None:
        return np.zeros(n_entries, dtype=bool)
    if dataset.dtype.kind not in "biu" or dataset.shape != (n_entries,):
        raise UserError(
            f"{path}: {FAILED!r} has shape {dataset.shape} of {dataset.dtype}; write true or false "
            f"for each of {n_entries} entries"
        )
    values = read_values(dataset)
    if not np.isin(values, (0, 1)).all():
        raise UserError(f"{path}: {FAILED!r} holds numbers besides 0 and 1; write true or false")
    return values.astype(bool)


def _order(axes: str) -> str:
    return "(" + "; ".join(_AXES[axis] for axis in axes) + ")"


def check(source: str, shown: str) -> None:
    """Parse a file, for what it raises."""
    parse(Path(source), Path(shown))
