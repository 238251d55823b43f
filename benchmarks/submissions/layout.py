"""The file that goes out and comes back filled in: names, shapes, units, and how it is written."""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import h5py
import numpy as np

from benchmarks.submissions.card import SUBMISSION, UNTOLD
from tg80.files import write_atomically

FORMAT = "atom-bench-template/1"
PREDICTIONS, FAILED = "predictions", "failed"
LENGTH_UNIT = "Angstrom"
UNIT = "unit"
AGAIN = "begin with the template again"

# Name -> (kinds of dtype that may stand in the file, its axes, its unit).
STATE_DATASETS: dict[str, tuple[str, str, str | None]] = {
    "entry": ("S", "E", None),
    "part": ("S", "E", None),
    "molecule": ("S", "E", None),
    "positions": ("f", "EN3", LENGTH_UNIT),
    "velocities": ("f", "EN3", "Angstrom fs-1"),
    "atomic_numbers": ("iu", "EN", None),
    "score_mask": ("b", "EN", None),
    "lags_fs": ("f", "P", "fs"),
}


@dataclass(frozen=True)
class Header:
    """What a template was made from: attributes of the file."""

    task: str
    task_sha256: str
    track: str
    fold: int
    split_sha256: str
    manifest_sha256: str
    n_entries: int


@dataclass(frozen=True)
class Template:
    """Start states and the lags to predict at: E entries of up to N atoms, P lags.

    Attributes:
        header: task, fold, split and data it was made from.
        entry: (E,) opaque names, sorted.
        part: (E,) names.
        molecule: (E,) names.
        positions: (E, N, 3) float64 A.
        velocities: (E, N, 3) float64 A/fs.
        atomic_numbers: (E, N), 0 = padding.
        score_mask: (E, N) bool, the atoms that are scored.
        lags_fs: (P,) fs, increasing, counted from the start state.
    """

    header: Header
    entry: np.ndarray
    part: np.ndarray
    molecule: np.ndarray
    positions: np.ndarray
    velocities: np.ndarray
    atomic_numbers: np.ndarray
    score_mask: np.ndarray
    lags_fs: np.ndarray

    def __len__(self) -> int:
        return len(self.entry)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Shape (E, P, N, 3) of the predictions."""
        return len(self), len(self.lags_fs), self.positions.shape[1], 3

    @property
    def parts(self) -> list[str]:
        """Parts that entries belong to, sorted."""
        return sorted(set(self.part.tolist()))

    @property
    def id(self) -> str:
        """Hash of all that stands here."""
        digest = hashlib.sha256(json.dumps(asdict(self.header), sort_keys=True).encode())
        for name in STATE_DATASETS:
            values = getattr(self, name)
            text = values.dtype.kind == "U"
            stored = "\n".join(values.tolist()).encode() if text else _plain(values).tobytes()
            digest.update(f"\n{name} {values.shape}\n".encode() + stored)
        return digest.hexdigest()[:32]


def _plain(values: np.ndarray) -> np.ndarray:
    """Values in the type that is hashed, whatever the machine's own."""
    kinds = {"f": "<f8", "i": "<i8", "u": "<i8", "b": "u1"}
    return np.ascontiguousarray(values, dtype=kinds[values.dtype.kind])


def write_template(path: Path, template: Template) -> None:
    """Write the file that is filled in: predictions NaN, nothing failed, nothing told."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file.attrs["format"] = FORMAT
        file.attrs["id"] = template.id
        file.attrs.update(asdict(template.header))
        for name, (_, axes, unit) in STATE_DATASETS.items():
            values = getattr(template, name)
            text = values.dtype.kind == "U"
            dataset = file.create_dataset(name, data=values.astype("S") if text else values)
            dataset.attrs["axes"] = axes
            if unit:
                dataset.attrs[UNIT] = unit
        predictions = file.create_dataset(
            PREDICTIONS, template.shape, "f8", chunks=(1, *template.shape[1:]),
            compression="gzip", shuffle=True, fillvalue=np.nan,
        )  # fmt: skip
        predictions.attrs["axes"] = "EPN3"
        predictions.attrs[UNIT] = LENGTH_UNIT
        file.create_dataset(FAILED, data=np.zeros(len(template), dtype=bool))
        file.create_group(SUBMISSION).attrs.update(UNTOLD)
    write_atomically(path, buffer.getvalue())
