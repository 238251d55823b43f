"""Read a filled template: every way in which it can be wrong has a message of its own."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import get_type_hints

import h5py
import numpy as np

from benchmarks.submissions.card import SUBMISSION, SubmissionCard, read_submission_card
from benchmarks.submissions.checks import check_finite, check_plausible
from benchmarks.submissions.layout import (
    AGAIN,
    FAILED,
    FORMAT,
    LENGTH_UNIT,
    PREDICTIONS,
    STATE_DATASETS,
    UNIT,
    Header,
    Template,
)
from benchmarks.submissions.safe_hdf5 import (
    check_file,
    checked_datasets,
    read_attribute,
    read_values,
    reading,
)
from tg80.errors import CorruptFile, UserError
from tg80.untrusted.apart import run_apart

_AXES = {"E": "entries", "P": "lags", "N": "atoms", "3": "x, y, z"}
_KINDS = {"S": "texts", "f": "real numbers", "iu": "whole numbers", "b": "true or false"}
_TEXT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+,()'@/-]{0,99}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+,()'-]{0,99}")


@dataclass(frozen=True)
class Submission:
    """A filled template: predictions (E, P, N, 3) A in the template's frames, failed (E,) bool.

    Attributes:
        path: where its bytes are.
        shown: what messages call it: the archive it came in, or the file.
        template: what was asked for.
        predictions: (E, P, N, 3) A.
        failed: (E,) where the model gave up.
        card: what is told of the model.
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


def read_apart(source: Path, shown: Path) -> None:
    """Read a file to its end in a process that may crash: HDF5 does so on altered bytes.

    Args:
        source: the file.
        shown: what messages call it.

    Raises:
        UserError: the process finds something wrong, crashes, or does not end.
    """
    check_file(source, shown)
    seconds = 20 + source.stat().st_size // 5_000_000
    try:
        run_apart("benchmarks.submissions.parsing:parse", str(source), str(shown), seconds=seconds)
    except CorruptFile as error:
        raise UserError(str(error)) from None


def read_submission(source: Path, *, as_is: bool = False, shown: Path | None = None) -> Submission:
    """Read and check a filled template, as far as the file alone tells.

    Args:
        source: the file.
        as_is: take positions that look like another unit or frame.
        shown: what messages call the file.

    Raises:
        UserError: anything is wrong; the message says what, where and what to do.
    """
    found = parse(source, shown or source)
    everything = (str(found.shown), found.template, found.predictions, found.failed)
    check_finite(*everything)
    if not as_is:
        check_plausible(*everything)
    return found


def parse(source: Path | str, shown: Path | str) -> Submission:
    """Read all that a filled template holds.

    Args:
        source: the file.
        shown: what messages call the file.

    Raises:
        UserError: it is not as it was handed out, or predictions are missing or of a wrong kind.
    """
    source, path = Path(source), Path(shown)
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
        raise UserError(f"{path}: format is {str(found)[:60]!r}, here {FORMAT!r}; {AGAIN}")


def _read_template(file: h5py.File, datasets: Mapping[str, h5py.Dataset], path: Path) -> Template:
    header = _read_header(file, path)
    arrays = {name: _read_state(datasets[name], name, path) for name in STATE_DATASETS}
    _check_shapes(arrays, path)
    entry, lags_fs = arrays["entry"], arrays["lags_fs"]
    if len(set(entry.tolist())) < len(entry):
        names, counts = np.unique(entry, return_counts=True)
        raise UserError(
            f"{path}: entry {names[counts.argmax()]} stands there {counts.max()} times; {AGAIN}"
        )
    if len(entry) != header.n_entries:
        raise UserError(
            f"{path}: {len(entry)} entries, the template has {header.n_entries}; {AGAIN}"
        )
    for name, falls in (("entry", entry[1:] < entry[:-1]), ("lags_fs", np.diff(lags_fs) <= 0)):
        if falls.any():
            row, values = int(falls.argmax()) + 1, arrays[name]
            raise UserError(
                f"{path}: {name!r} is not in the template's order: {values[row]} in row "
                f"{row} comes before {values[row - 1]}; {AGAIN}"
            )
    template = Template(header=header, **arrays)
    told = read_attribute(file, "id", path)
    if told != template.id:
        raise UserError(
            f"{path}: id {str(told)[:40]!r} is not that of this content ({template.id}): it is "
            f"another template's, or task, fold, entries, states or lags were altered; {AGAIN}"
        )
    return template


def _read_header(file: h5py.File, path: Path) -> Header:
    kinds = get_type_hints(Header)
    found = {field.name: read_attribute(file, field.name, path) for field in fields(Header)}
    for name, value in found.items():
        if not isinstance(value, kinds[name]):
            raise UserError(f"{path}: attribute {name!r} is missing or altered; {AGAIN}")
        # It is printed, and names folders.
        if isinstance(value, str) and not _TEXT.fullmatch(value):
            raise UserError(f"{path}: attribute {name!r} is {value[:40]!r}, not a name; {AGAIN}")
    return Header(**found)  # pyright: ignore[reportArgumentType]


def _read_state(dataset: h5py.Dataset, name: str, path: Path) -> np.ndarray:
    kinds, axes, unit = STATE_DATASETS[name]
    if dataset.dtype.kind not in kinds:
        raise UserError(f"{path}: {name!r} holds {dataset.dtype}, not {_KINDS[kinds]}; {AGAIN}")
    if dataset.shape is None or len(dataset.shape) != len(axes):
        raise UserError(f"{path}: {name!r} has shape {dataset.shape}, not {_order(axes)}; {AGAIN}")
    if unit and (found := read_attribute(dataset, UNIT, path)) != unit:
        raise UserError(f"{path}: {UNIT} of {name!r} is {str(found)[:40]!r}, not {unit!r}; {AGAIN}")
    values = read_values(dataset)
    if kinds == "S":
        texts = [bytes(value).decode("ascii", "replace") for value in values]
        if not all(_NAME.fullmatch(text) for text in texts):
            raise UserError(f"{path}: {name!r} holds texts that are not names; {AGAIN}")
        return np.array(texts)
    if kinds == "f" and not np.isfinite(values).all():
        raise UserError(f"{path}: {name!r} holds numbers that are not finite; {AGAIN}")
    return values


def _check_shapes(arrays: dict[str, np.ndarray], path: Path) -> None:
    n_atoms = arrays["positions"].shape[1]
    size = {"E": len(arrays["entry"]), "N": n_atoms, "P": len(arrays["lags_fs"]), "3": 3}
    for name, (_, axes, _) in STATE_DATASETS.items():
        wanted = tuple(size[axis] for axis in axes)
        if arrays[name].shape != wanted or 0 in wanted:
            raise UserError(
                f"{path}: {name!r} has shape {arrays[name].shape}, the other datasets want "
                f"{wanted}; {AGAIN}"
            )
    if not arrays["score_mask"].any(1).all():
        raise UserError(f"{path}: 'score_mask' has an entry without scored atoms; {AGAIN}")


def _read_predictions(dataset: h5py.Dataset, path: Path, template: Template) -> np.ndarray:
    if dataset.dtype.kind != "f" or dataset.dtype.itemsize not in (4, 8):
        raise UserError(f"{path}: {PREDICTIONS!r} holds {dataset.dtype}; write float32 or float64")
    if dataset.shape != template.shape:
        raise UserError(
            f"{path}: {PREDICTIONS!r} has shape {dataset.shape}, not {template.shape}; write "
            f"{_order('EPN3')} in the order of the template, padding kept"
        )
    if (unit := read_attribute(dataset, UNIT, path)) != LENGTH_UNIT:
        raise UserError(
            f"{path}: {UNIT} of {PREDICTIONS!r} is {str(unit)[:40]!r}; convert the positions to "
            f"angstrom and set it to {LENGTH_UNIT!r}"
        )
    return read_values(dataset).astype(np.float64)


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
