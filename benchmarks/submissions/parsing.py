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
    errors_of,
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
        card: what is stated of the model.
    """

    path: Path
    shown: Path
    template: Template
    predictions: np.ndarray
    failed: np.ndarray
    card: SubmissionCard

    @property
    def sha256(self) -> str:
        """Hash of the content, however it is stored."""
        digest = hashlib.sha256(f"{self.template.id}\n{self.card.model_dump_json()}\n".encode())
        digest.update(np.ascontiguousarray(self.predictions, dtype="<f8").tobytes())
        digest.update(self.failed.astype("u1").tobytes())
        return digest.hexdigest()

    @property
    def predictions_sha256(self) -> str:
        """Hash of the scored predictions, whatever the card says."""
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
    with errors_of(found.shown):
        check_finite(found.template, found.predictions, found.failed)
        if not as_is:
            check_plausible(found.template, found.predictions, found.failed)
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
        _check_format(file)
        found = checked_datasets(file, datasets, {SUBMISSION})
        template = _read_template(file, found)
        predictions = _read_predictions(found[PREDICTIONS], template)
        failed = _read_failed(found.get(FAILED), len(template))
        card = read_submission_card(file)
    return Submission(source, path, template, predictions, failed, card)


def _check_format(file: h5py.File) -> None:
    found = read_attribute(file, "format")
    if found is None:
        raise UserError("no template of `atom-bench template`; fill in one of these")
    if found != FORMAT:
        raise UserError(f"format is {str(found)[:60]!r}, here {FORMAT!r}; {AGAIN}")


def _read_template(file: h5py.File, datasets: Mapping[str, h5py.Dataset]) -> Template:
    header = _read_header(file)
    arrays = {name: _read_state(datasets[name], name) for name in STATE_DATASETS}
    _check_shapes(arrays)
    if (n_entries := len(arrays["entry"])) != header.n_entries:
        raise UserError(f"{n_entries} entries, the template has {header.n_entries}; {AGAIN}")
    template = Template(header=header, **arrays)
    told = read_attribute(file, "id")
    if told != template.id:
        raise UserError(
            f"id {str(told)[:40]!r} is not that of this content ({template.id}): it is "
            f"another template's, or task, fold, entries, states or lags were altered; {AGAIN}"
        )
    return template


def _read_header(file: h5py.File) -> Header:
    kinds = get_type_hints(Header)
    found = {field.name: read_attribute(file, field.name) for field in fields(Header)}
    for name, value in found.items():
        if not isinstance(value, kinds[name]):
            raise UserError(f"attribute {name!r} is missing or altered; {AGAIN}")
        # It is printed, and names folders.
        if isinstance(value, str) and not _TEXT.fullmatch(value):
            raise UserError(f"attribute {name!r} is {value[:40]!r}, not a name; {AGAIN}")
    return Header(**found)  # pyright: ignore[reportArgumentType]


def _read_state(dataset: h5py.Dataset, name: str) -> np.ndarray:
    kinds, axes, unit = STATE_DATASETS[name]
    if dataset.dtype.kind not in kinds:
        raise UserError(f"{name!r} holds {dataset.dtype}, not {_KINDS[kinds]}; {AGAIN}")
    if dataset.shape is None or len(dataset.shape) != len(axes):
        raise UserError(f"{name!r} has shape {dataset.shape}, not {_order(axes)}; {AGAIN}")
    if unit and (found := read_attribute(dataset, UNIT)) != unit:
        raise UserError(f"{UNIT} of {name!r} is {str(found)[:40]!r}, not {unit!r}; {AGAIN}")
    values = read_values(dataset)
    if kinds == "S":
        texts = [bytes(value).decode("ascii", "replace") for value in values]
        if not all(_NAME.fullmatch(text) for text in texts):
            raise UserError(f"{name!r} holds texts that are not names; {AGAIN}")
        return np.array(texts)
    if kinds == "f" and not np.isfinite(values).all():
        raise UserError(f"{name!r} holds numbers that are not finite; {AGAIN}")
    return values


def _check_shapes(arrays: dict[str, np.ndarray]) -> None:
    n_atoms = arrays["positions"].shape[1]
    size = {"E": len(arrays["entry"]), "N": n_atoms, "P": len(arrays["lags_fs"]), "3": 3}
    for name, (_, axes, _) in STATE_DATASETS.items():
        wanted = tuple(size[axis] for axis in axes)
        if arrays[name].shape != wanted or 0 in wanted:
            raise UserError(
                f"{name!r} has shape {arrays[name].shape}, the other datasets want "
                f"{wanted}; {AGAIN}"
            )
    if not arrays["score_mask"].any(1).all():
        raise UserError(f"'score_mask' has an entry without scored atoms; {AGAIN}")


def _read_predictions(dataset: h5py.Dataset, template: Template) -> np.ndarray:
    if dataset.dtype.kind != "f" or dataset.dtype.itemsize not in (4, 8):
        raise UserError(f"{PREDICTIONS!r} holds {dataset.dtype}; write float32 or float64")
    if dataset.shape != template.shape:
        raise UserError(
            f"{PREDICTIONS!r} has shape {dataset.shape}, not {template.shape}; write "
            f"{_order('EPN3')} in the order of the template, padding kept"
        )
    if (unit := read_attribute(dataset, UNIT)) != LENGTH_UNIT:
        raise UserError(
            f"{UNIT} of {PREDICTIONS!r} is {str(unit)[:40]!r}; convert the positions to "
            f"angstrom and set it to {LENGTH_UNIT!r}"
        )
    return read_values(dataset).astype(np.float64)


def _read_failed(dataset: h5py.Dataset | None, n_entries: int) -> np.ndarray:
    if dataset is None:
        return np.zeros(n_entries, dtype=bool)
    if dataset.dtype.kind not in "biu" or dataset.shape != (n_entries,):
        raise UserError(
            f"{FAILED!r} has shape {dataset.shape} of {dataset.dtype}; write true or false "
            f"for each of {n_entries} entries"
        )
    values = read_values(dataset)
    if not np.isin(values, (0, 1)).all():
        raise UserError(f"{FAILED!r} holds numbers besides 0 and 1; write true or false")
    return values.astype(bool)


def _order(axes: str) -> str:
    return "(" + "; ".join(_AXES[axis] for axis in axes) + ")"
