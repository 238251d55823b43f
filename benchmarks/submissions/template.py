"""Start states for outsiders, and the way back from their frame to ours.

Nothing in a template may lead to its targets. The starts of one trajectory are farther apart than
the horizon, but the end of one window can lie close to the start of the next: who knew the order of
the starts and how each was turned could read targets off other entries. The code that turns the
windows of `run` is public and depends on public names, so that every entry is turned once more here
and moved to its centre of mass, and named and ordered, by a key that only the targets themselves
give: it is the hash of the scored trajectories. Who has these, or the train parts of other folds,
where the same molecules are, can look targets up: docs/benchmark/joining.md forbids it, no template
can. No secret has to be kept or passed on.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from benchmarks.submissions.layout import Header, Template
from benchmarks.tasks.data import BenchmarkData
from benchmarks.tasks.scored_windows import Windows
from benchmarks.tasks.tasks import TaskSpec, get_task, is_fine_tuning
from tg80.constants import masses_of
from tg80.errors import UserError
from tg80.windows.rotations import uniform_rotations

TEST_PARTS = ("test_time", "test_id", "test_ood")


@dataclass(frozen=True)
class Issued:
    """A template, and what only who has the data knows of it.

    Attributes:
        row: start id -> row of the template.
        rotations: (E, 3, 3), from the frame of our windows to that of the template.
        centres: (E, 3) A, centres of mass in the frame of our windows.
    """

    template: Template
    row: dict[str, int]
    rotations: np.ndarray
    centres: np.ndarray

    def handed_out(self, rows: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Positions (B, ..., N, 3) of the windows in these rows, in the template's frames."""
        return _each(positions, -self.centres[rows], self.rotations[rows])

    def taken_back(self, rows: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """The reverse of `handed_out`."""
        turned = _each(positions, np.zeros((len(rows), 3)), self.rotations[rows].swapaxes(1, 2))
        return turned + self.centres[rows].reshape(-1, *[1] * (positions.ndim - 2), 3)


def _each(positions: np.ndarray, shifts: np.ndarray, rotations: np.ndarray) -> np.ndarray:
    shifts = shifts.reshape(-1, *[1] * (positions.ndim - 2), 3)
    moved = np.asarray(positions, dtype=np.float64) + shifts
    return np.einsum("b...j,bij->b...i", moved, rotations)


def task_of(task_id: str, track: str) -> TaskSpec:
    """The task that a template is asked of, or was made of.

    Raises:
        UserError: no such task or track, or one that is not scored as `atom-bench run` does.
    """
    task = get_task(task_id, track)
    if is_fine_tuning(task):
        raise UserError(f"task {task_id!r}: `atom-bench finetune` runs it; no template is made")
    return task


def issue(data: BenchmarkData, parts: Sequence[str] | None = None) -> Issued:
    """The template of one fold.

    Args:
        data: the windows of that fold.
        parts: which are asked for, None for the test parts that the data has.

    Raises:
        UserError: a part that the data has not; starts of one trajectory that are no farther apart
            than the horizon.
    """
    chosen = _choose(data, parts)
    key = _key(data)
    states = [data.parts[part].windows.states for part in chosen]
    start_ids = [start for each in states for start in each.start_id]
    _check_apart(data, chosen, start_ids)
    names = [_named(key, "entry", start) for start in start_ids]
    # Sorted by keyed hashes: an order that tells nothing, and is the same every time.
    order = np.argsort(names)
    lags = _lags(data, chosen)
    n_atoms = _width(max(s.positions.shape[1] for s in states), len(start_ids), len(lags))
    positions, velocities, numbers, mask = (
        np.concatenate([_widen(getattr(s, field).numpy(), n_atoms) for s in states])[order]
        for field in ("positions", "velocities", "atomic_numbers", "score_mask")
    )
    start_ids = [start_ids[i] for i in order]
    rotations = np.stack([_rotation(key, start) for start in start_ids])
    centres = _centres_of_mass(positions, numbers)
    present = (numbers > 0)[..., None]
    template = Template(
        header=_header(data, len(start_ids)),
        entry=np.array(names)[order],
        part=np.array([p for p, s in zip(chosen, states, strict=True) for _ in s.start_id])[order],
        molecule=np.array([name for s in states for name in s.molecule])[order],
        positions=np.where(present, _each(positions, -centres, rotations), 0.0),
        velocities=_each(velocities, np.zeros_like(centres), rotations),
        atomic_numbers=numbers.astype(np.int32),
        score_mask=mask,
        lags_fs=lags,
    )
    return Issued(template, {s: i for i, s in enumerate(start_ids)}, rotations, centres)


def _choose(data: BenchmarkData, parts: Sequence[str] | None) -> list[str]:
    if parts is None:
        parts = [part for part in TEST_PARTS if part in data.parts]
    unknown = [part for part in parts if part not in data.parts]
    if unknown or not parts:
        known = ", ".join(data.parts)
        raise UserError(f"no part {', '.join(unknown) or 'to test'} in this fold; there is {known}")
    return sorted(set(parts))


def _header(data: BenchmarkData, n_entries: int) -> Header:
    return Header(
        task=data.task.id,
        task_sha256=task_sha256(data.task),
        track=str(data.task.track),
        fold=data.fold,
        split_sha256=data.split_sha256,
        manifest_sha256=data.manifest_sha256,
        n_entries=n_entries,
    )


def task_sha256(task: TaskSpec) -> str:
    """Hash of what the task is, so that a template of an older version is recognised."""
    text = json.dumps(task.identity(), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _key(data: BenchmarkData) -> bytes:
    origin = asdict(_header(data, 0))
    del origin["n_entries"]  # The key is the same whichever parts are asked for.
    digest = hashlib.sha256(json.dumps(origin, sort_keys=True).encode())
    for part in sorted(data.blocks):
        for block in data.blocks[part]:
            digest.update(f"{part} {block.start_id(0)}".encode())
            digest.update(np.ascontiguousarray(block.positions, dtype="<f4").tobytes())
    return digest.digest()


def _named(key: bytes, purpose: str, start_id: str) -> str:
    return hmac.new(key, f"{purpose}\n{start_id}".encode(), "sha256").hexdigest()[:16]


def _rotation(key: bytes, start_id: str) -> np.ndarray:
    seed = int(_named(key, "rotation", start_id), 16)
    return uniform_rotations(np.random.default_rng(seed), 1)[0]


def _check_apart(data: BenchmarkData, parts: Sequence[str], start_ids: Sequence[str]) -> None:
    frame_fs = data.blocks[parts[0]][0].frame_fs
    frames: dict[str, list[int]] = {}
    for start in start_ids:
        trajectory, _, frame = start.rpartition("@")
        frames.setdefault(trajectory, []).append(int(frame))
    for trajectory, members in frames.items():
        gaps = np.diff(sorted(members)) * frame_fs
        if gaps.size and gaps.min() <= data.task.horizon_fs:
            raise UserError(
                f"task {data.task.id}: windows of {trajectory} overlap, so that starts would give "
                "targets away; no template is made of this task"
            )


def _lags(data: BenchmarkData, parts: Sequence[str]) -> np.ndarray:
    """All lags of the task and of its curve, as they are scored."""
    windows: list[Windows] = []
    for name in parts:
        part = data.parts[name]
        windows += [part.windows] + ([part.curve] if part.curve else [])
    rows = [w.lags_fs.double().numpy() for w in windows]
    if any((np.nan_to_num(row) != np.nan_to_num(row[:1])).any() for row in rows):
        raise UserError(f"task {data.task.id}: lags differ between windows; no template is made")
    lags = np.unique(np.concatenate([row[0] for row in rows]))
    return lags[~np.isnan(lags)]


def _width(n_atoms: int, n_entries: int, n_lags: int) -> int:
    """Atoms that entries are padded to: no other axis is as long, so that swapped axes show."""
    while n_atoms in (n_entries, n_lags, 3):
        n_atoms += 1
    return n_atoms


def _widen(values: np.ndarray, n_atoms: int) -> np.ndarray:
    padding = [(0, 0), (0, n_atoms - values.shape[1])] + [(0, 0)] * (values.ndim - 2)
    return np.pad(values, padding)


def _centres_of_mass(positions: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    masses = masses_of(numbers) * (numbers > 0)
    weighted = np.einsum("en,enj->ej", masses, positions.astype(np.float64))
    return weighted / masses.sum(1, keepdims=True)
