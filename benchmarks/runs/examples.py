"""A few predicted windows of each run, kept so that they can be looked at.

Which windows is decided by the data alone, so that all models show the same: in each test part the
molecules are ordered by the error of persistence at the horizon, and those a quarter, half and
three quarters up are taken, each with its first start.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.interface import Model
from benchmarks.scoring import metrics
from benchmarks.scoring.failures import persistence_where_failed
from benchmarks.tasks.data import SEEN_PARTS, BenchmarkData
from benchmarks.tasks.scored_windows import Part, Windows
from tg80.errors import UserError
from tg80.files import write_atomically
from tg80.untrusted.npz import pack_npz, read_npz

EXAMPLES = "examples.npz"
PARTS = ("test_time", "test_id", "test_ood")
QUANTILES = (0.25, 0.5, 0.75)
# Positions are kept as int16 in these units about the start's centroid: 33 A either way.
UNIT_ANGSTROM = 1e-3


@dataclass(frozen=True)
class Example:
    """One window as it was scored, about the centroid of the start.

    Attributes:
        part: name of the part.
        molecule: name of the molecule.
        start_id: name of the window.
        atomic_numbers: (N,).
        scored: (N,) bool.
        lags_fs: (P,), increasing, those of the curve among them.
        start: (N, 3) A.
        truth: (P, N, 3) A.
        predicted: (P, n_scored, 3) A, the scored atoms alone.
        failed: scored as persistence.
    """

    part: str
    molecule: str
    start_id: str
    atomic_numbers: np.ndarray
    scored: np.ndarray
    lags_fs: np.ndarray
    start: np.ndarray
    truth: np.ndarray
    predicted: np.ndarray
    failed: bool


def chosen_windows(part: Part) -> list[int]:
    """Indices of the windows that are kept of a part."""
    windows = part.windows
    still = windows.states.positions[:, None].expand_as(windows.targets)
    errors = metrics.squared_errors(
        still, windows.targets, windows.states.score_mask, windows.lags_fs
    )
    by_molecule = metrics.per_molecule(metrics.s2s(errors), windows.states.molecule)
    ranked = sorted(by_molecule, key=lambda name: (float(by_molecule[name]), name))
    picked = dict.fromkeys(ranked[round(q * (len(ranked) - 1))] for q in QUANTILES)
    return [windows.states.molecule.index(name) for name in picked]


def examples_of(model: Model, data: BenchmarkData) -> list[Example]:
    """The windows of every test part that the model can predict."""
    found = []
    for name in PARTS:
        part = data.parts.get(name)
        if part is None or (model.seen_only and name not in SEEN_PARTS):
            continue
        for index in chosen_windows(part):
            found.append(_example(model, part, index))
    return found


def _example(model: Model, part: Part, index: int) -> Example:
    sets = [one for one in (part.windows, part.curve) if one is not None]
    # Asked as they were scored: with some models a prediction depends on which lags are asked.
    answers = [_predicted(model, windows, index) for windows in sets]
    lags = np.concatenate([windows.lags_fs[index].double().numpy() for windows in sets])
    order = np.argsort(lags)[: int((~np.isnan(lags)).sum())]
    states = part.windows.states
    atoms = states.atom_mask[index].numpy()
    scored = states.score_mask[index].numpy()
    start = states.positions[index].numpy()[atoms]
    centre = start.mean(axis=0)
    truth = np.concatenate([windows.targets[index].numpy() for windows in sets])
    predicted = np.concatenate([positions for positions, _ in answers])
    return Example(
        part=part.name,
        molecule=states.molecule[index],
        start_id=states.start_id[index],
        atomic_numbers=states.atomic_numbers[index].numpy()[atoms],
        scored=scored[atoms],
        lags_fs=lags[order],
        start=start - centre,
        truth=truth[order][:, atoms] - centre,
        predicted=predicted[order][:, scored] - centre,
        failed=any(failed for _, failed in answers),
    )


def _predicted(model: Model, windows: Windows, index: int) -> tuple[np.ndarray, bool]:
    states, lags = windows.states.select([index]), windows.lags_fs[[index]]
    positions, failed = model.predict(states, lags)
    accepted = persistence_where_failed(positions, failed, states, lags)
    return positions[0].detach().numpy(), bool(accepted.failed[0])


def write_examples(folder: Path, examples: list[Example]) -> None:
    """Write `examples.npz` into a run's folder."""
    arrays: dict[str, np.ndarray] = {}
    for number, example in enumerate(examples):
        stored = {
            "molecule": np.array(example.molecule),
            "start_id": np.array(example.start_id),
            "atomic_numbers": example.atomic_numbers.astype(np.uint8),
            "scored": example.scored,
            "lags_fs": example.lags_fs.astype(np.float32),
            "failed": np.array(example.failed),
            **{name: _whole(getattr(example, name)) for name in ("start", "truth", "predicted")},
        }
        arrays |= {f"{example.part}/{number}/{name}": array for name, array in stored.items()}
    write_atomically(folder / EXAMPLES, pack_npz(arrays, compressed=True))


def _whole(positions: np.ndarray) -> np.ndarray:
    limit = np.iinfo(np.int16).max
    steps = np.nan_to_num(positions / UNIT_ANGSTROM, posinf=limit, neginf=-limit)
    return np.clip(np.round(steps), -limit, limit).astype(np.int16)


def read_examples(folder: Path) -> list[Example]:
    """The examples of a run, none if it has no such file.

    Raises:
        UserError: the file is there and not whole.
    """
    path = folder / EXAMPLES
    if not path.exists():
        return []
    try:
        arrays = read_npz(path)
        prefixes = dict.fromkeys(key.rsplit("/", 1)[0] for key in arrays)
        return [_read(arrays, prefix) for prefix in prefixes]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path}: not a file of examples ({error}); remove it") from error


def _read(arrays: Mapping[str, np.ndarray], prefix: str) -> Example:
    def positions(name: str, shape: tuple[int, ...]) -> np.ndarray:
        array = arrays[f"{prefix}/{name}"]
        if array.shape != shape or array.dtype != np.int16:
            raise ValueError(f"{prefix}/{name} is {array.dtype} {array.shape}, not int16 {shape}")
        return array * UNIT_ANGSTROM

    numbers, lags = arrays[f"{prefix}/atomic_numbers"], arrays[f"{prefix}/lags_fs"]
    scored = arrays[f"{prefix}/scored"]
    if numbers.ndim != 1 or scored.shape != numbers.shape or lags.ndim != 1:
        raise ValueError(f"{prefix}: arrays do not fit each other")
    n_atoms, n_lags = len(numbers), len(lags)
    return Example(
        part=prefix.split("/")[0],
        molecule=str(arrays[f"{prefix}/molecule"]),
        start_id=str(arrays[f"{prefix}/start_id"]),
        atomic_numbers=numbers.astype(int),
        scored=scored.astype(bool),
        lags_fs=lags.astype(float),
        start=positions("start", (n_atoms, 3)),
        truth=positions("truth", (n_lags, n_atoms, 3)),
        predicted=positions("predicted", (n_lags, int(scored.sum()), 3)),
        failed=bool(arrays[f"{prefix}/failed"]),
    )
