"""Falsified physics, as a competent forger would write it.

Each forgery changes one honest trajectory in place. `restate` then makes the file agree with
itself: kinetic energy and conserved quantity, flags, statistics, numbers of frames; the writer adds
checksums. What is left wrong is the physics.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tg80.constants import ACCELERATION, ANGSTROM_PER_BOHR, EV_PER_HARTREE
from tg80.shards.checks.evidence import Evidence
from tg80.shards.fields import (
    AXIS_FIELDS,
    FRAME_FIELDS,
    LEARNED_FIELDS,
    LEVEL_FIELDS,
    MISSING,
    STATIC_FIELDS,
    evaluated_frames,
)
from tg80.shards.metadata import ShardMetadata
from tg80.shards.quality import judge
from tg80.shards.shard import Shard, to_disk, to_memory, write_shard

VECTORS = ("positions", "velocities", "forces")
AXES = tuple(axis.name for axis in AXIS_FIELDS)


@dataclass
class Trajectory:
    """The contents of one shard, to be changed at will."""

    frames: dict[str, np.ndarray]
    static: dict[str, np.ndarray]
    metadata: ShardMetadata
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    @property
    def n_frames(self) -> int:
        return len(self.frames["positions"])

    @property
    def middle(self) -> int:
        return self.n_frames // 2

    @property
    def evaluated(self) -> np.ndarray:
        """(n_frames,) bool, where the level was evaluated."""
        return evaluated_frames(self.frames)

    def blank(self, frames: np.ndarray) -> None:
        """Take the energies, and all else of the level, from frames (n_frames,) bool."""
        for name in self.frames.keys() & set(LEVEL_FIELDS):
            self.frames[name][frames] = MISSING.get(name, np.nan)
        self.frames["evaluated"][frames] = 0

    def hydrogens(self) -> list[int]:
        """Two like atoms, hydrogens of one heavy atom if there are any."""
        numbers = self.static["atomic_numbers"]
        owners: dict[int, list[int]] = {}
        for i, j, _ in self.metadata.bonds:
            if numbers[j] == 1:
                owners.setdefault(i, []).append(j)
        pairs = [atoms[:2] for atoms in owners.values() if len(atoms) > 1]
        like = np.flatnonzero(numbers == numbers[-1])[-2:].tolist()
        return pairs[0] if pairs else like

    def take(self, order) -> None:
        """Frames in another order, or fewer; their times counted anew."""
        for name in self.frames.keys() - set(AXES):
            self.frames[name] = self.frames[name][order]
        for name in AXES:
            self.frames[name] = self.frames[name][: self.n_frames]


def load(
    path: Path, stride: int = 1, n_frames: int | None = None, every: int | None = None
) -> Trajectory:
    """Every `stride`-th frame of a shard, stated as if it had been stored so.

    With `every` it is one of `learned`, with energies in every so-manieth frame.
    """
    shard = Shard(path)
    names = [f.name for f in (*FRAME_FIELDS, *AXIS_FIELDS)]
    frames = {name: np.array(shard.read(name)[::stride][:n_frames]) for name in names}
    static = {f.name: np.array(shard.static(f.name)) for f in STATIC_FIELDS}
    spacing = shard.metadata.store_every_fs * stride
    metadata = shard.metadata.model_copy(update={"store_every_fs": spacing})
    trajectory = Trajectory(frames, static, metadata)
    if every:
        n, outer = trajectory.n_frames, np.float32(every * spacing)
        frames["residual_force"] = np.full(n, 0.01, dtype="f4")
        frames["outer_step"] = np.where(np.arange(n) > 0, outer, np.float32(0))
        frames["evaluated"] = np.ones(n, dtype="u1")
        trajectory.blank(np.arange(n) % every > 0)
        trajectory.metadata = metadata.model_copy(update={"integrator": "learned"})
    return trajectory


def restate(trajectory: Trajectory) -> None:
    """Let flags, statistics and counts fit the arrays, as they are rounded."""
    frames, metadata = dict(as_read(trajectory).frames), trajectory.metadata
    trajectory.frames = frames
    statistics = {}
    known = trajectory.evaluated
    level = [values[known] for name, values in frames.items() if name in LEVEL_FIELDS]
    if known.any() and all(np.all(np.isfinite(values)) for values in level):
        with np.errstate(all="ignore"):
            quality = judge(frames, trajectory.static, metadata)
            frames["quality_flags"], statistics = quality.flags, quality.statistics()
    target = metadata.target_energy_ev
    changes = {
        "n_frames": trajectory.n_frames,
        "length_fs": float(frames["time"][-1]),
        "statistics": statistics,
        "target_energy_ev": target and float(frames["conserved_quantity"][0]),
    }
    trajectory.metadata = metadata.model_copy(update=changes)


def write(trajectory: Trajectory, folder: Path) -> Path:
    """The shard with its checksum."""
    metadata = trajectory.metadata
    path = folder / f"{metadata.name}-r{metadata.replica}.h5md"
    with np.errstate(all="ignore"):
        write_shard(path, trajectory.frames | trajectory.static, metadata)
    return path


def as_read(trajectory: Trajectory) -> Evidence:
    """What a reader of the written shard gets, without the file."""
    stored = {f.name: f for f in (*FRAME_FIELDS, *LEARNED_FIELDS, *AXIS_FIELDS, *STATIC_FIELDS)}
    with np.errstate(all="ignore"):
        frames, static = (
            {name: to_memory(stored[name], to_disk(stored[name], a)) for name, a in arrays.items()}
            for arrays in (trajectory.frames, trajectory.static)
        )
    return Evidence(frames, static, trajectory.metadata)


@dataclass(frozen=True)
class Forgery:
    """One falsification.

    Attributes:
        name: what is done.
        fields: the stored fields that are wrong then.
        apply: changes a trajectory in place.
        keep_flags: whether the forger leaves the flags as `apply` set them.
    """

    name: str
    fields: tuple[str, ...]
    apply: Callable[[Trajectory], None]
    keep_flags: bool = False

    def fits(self, trajectory: Trajectory) -> bool:
        """Whether the trajectory has what is falsified."""
        learned = {one.name for one in LEARNED_FIELDS}
        return "evaluated" in trajectory.frames or not learned & set(self.fields)


FORGERIES: list[Forgery] = []


def forgery(name: str, *fields: str, keep_flags: bool = False):
    def add(apply: Callable[[Trajectory], None]) -> Callable[[Trajectory], None]:
        FORGERIES.append(Forgery(name, fields, apply, keep_flags))
        return apply

    return add


def _known(t: Trajectory, name: str) -> tuple[Trajectory, np.ndarray]:
    """The frames that hold a field, and which they are."""
    known = t.evaluated if name in LEVEL_FIELDS else np.ones(t.n_frames, dtype=bool)
    frames = {key: values[known] for key, values in t.frames.items()}
    return Trajectory(frames, t.static, t.metadata, t.rng), known


def _all(change):
    """All values of one field, changed."""

    def of(name):
        def apply(t):
            if name in t.static:
                values = t.static[name]
                t.static[name] = change(t, values.astype(float)).astype(values.dtype)
                return
            inner, known = _known(t, name)
            t.frames[name][known] = change(inner, inner.frames[name].astype(float))

        return apply

    return of


def _one(change, where=lambda t: t.middle):
    def of(name):
        def apply(t):
            inner, known = _known(t, name)
            frame = np.flatnonzero(known)[where(inner)]
            t.frames[name][frame] = change(inner, inner.frames[name].astype(float))[where(inner)]

        return apply

    return of


zero = _all(lambda t, x: 0 * x)
negative = _all(lambda t, x: -x)
percent = _all(lambda t, x: 1.01 * x)
huge = _all(lambda t, x: np.full_like(x, 1e30))
billion = _all(lambda t, x: np.full_like(x, 1e9))
tenth = _all(lambda t, x: x / 10)
shuffled = _all(lambda t, x: x[t.rng.permutation(len(x))])
backwards = _all(lambda t, x: x[::-1])
frozen = _all(lambda t, x: np.concatenate([x[: t.middle], np.repeat(x[t.middle : t.middle + 1],
              len(x) - t.middle, axis=0)]))  # fmt: skip
constant = _all(lambda t, x: np.broadcast_to(x.mean(axis=0), x.shape))
one_zero = _one(lambda t, x: 0 * x)
first_zero = _one(lambda t, x: 0 * x, lambda t: 0)
last_zero = _one(lambda t, x: 0 * x, lambda t: -1)
one_negative = _one(lambda t, x: -x)
one_next = _one(lambda t, x: np.roll(x, -1, axis=0))
not_a_number = _one(lambda t, x: np.full_like(x, np.nan))
rolled = _all(lambda t, x: np.roll(x, 1, axis=1))
bohr = _all(lambda t, x: x / ANGSTROM_PER_BOHR)
hartree = _all(lambda t, x: x / EV_PER_HARTREE)
noisy = _all(lambda t, x: x + 0.01 * t.rng.normal(size=x.shape))


def energies_of_velocities(t: Trajectory) -> None:
    """What the forger of velocities writes for the energies."""
    squared = np.sum(t.frames["velocities"].astype(float) ** 2, axis=2)
    t.frames["kinetic_energy"] = 0.5 * squared @ t.static["masses"] / ACCELERATION
    if t.metadata.ensemble == "nve":
        t.frames["potential_energy"] = t.frames["conserved_quantity"] - t.frames["kinetic_energy"]


def total_of_parts(t: Trajectory) -> None:
    t.frames["conserved_quantity"] = t.frames["kinetic_energy"] + t.frames["potential_energy"]


def _register(field_name: str, after=None, **changes) -> None:
    for words, change in changes.items():
        inner = change(field_name)

        def apply(t, inner=inner):
            inner(t)
            if after is not None:
                after(t)

        forgery(f"{field_name}: {words.replace('_', ' ')}", field_name)(apply)


_register(
    "positions", zero=zero, huge=huge, a_tenth=tenth, in_bohr=bohr, times_1_01=percent,
    inverted=negative, noise_of_0_01_A=noisy, one_frame_zero=one_zero, first_frame_zero=first_zero,
    last_frame_zero=last_zero, one_frame_that_of_the_next=one_next, shuffled_in_time=shuffled,
    backwards_in_time=backwards, frozen_from_half_way=frozen, one_frame_no_number=not_a_number,
    other_atoms=rolled,
)  # fmt: skip
_register(
    "velocities", energies_of_velocities, zero=zero, reversed=negative, times_1_01=percent,
    a_tenth=tenth, huge=huge, in_bohr=bohr, one_frame_zero=one_zero,
    one_frame_reversed=one_negative, last_frame_zero=last_zero, shuffled_in_time=shuffled,
    backwards_in_time=backwards, frozen_from_half_way=frozen, other_atoms=rolled,
    noise=_all(lambda t, v: v + 1e-4 * t.rng.normal(size=v.shape)),
)  # fmt: skip
_register(
    "forces", zero=zero, reversed=negative, times_1_01=percent,
    times_1_2=_all(lambda t, x: 1.2 * x),
    in_hartree_per_A=hartree, per_bohr=bohr, huge=huge, one_frame_zero=one_zero,
    first_frame_zero=first_zero, last_frame_zero=last_zero, one_frame_reversed=one_negative,
    one_frame_that_of_the_next=one_next, shuffled_in_time=shuffled, backwards_in_time=backwards,
    frozen_from_half_way=frozen, other_atoms=rolled, noise=noisy,
)  # fmt: skip
_register(
    "potential_energy", total_of_parts, zero=zero, positive=negative, times_1_01=percent,
    in_hartree=hartree, shuffled_in_time=shuffled, frozen_from_half_way=frozen,
    one_frame_0_1_eV_up=_one(lambda t, x: x + 0.1), one_frame_zero=one_zero, constant=constant,
    backwards_in_time=backwards, huge=huge, up_by_1_eV=_all(lambda t, x: x + 1.0),
)  # fmt: skip
_register("kinetic_energy", total_of_parts, times_1_01=percent, zero=zero, in_hartree=hartree,
          one_frame_zero=one_zero, shuffled_in_time=shuffled)  # fmt: skip
_register("conserved_quantity", zero=zero, times_1_01=percent, one_frame_zero=one_zero,
          rising=_all(lambda t, x: x + np.linspace(0, 0.1, len(x))))  # fmt: skip
_register("homo_lumo_gap", zero=zero, negative=negative, in_hartree=hartree, billion=billion,
          shuffled_in_time=shuffled, one_frame_zero=one_zero, constant=constant,
          times_1_01=percent)  # fmt: skip
_register("dipole", zero=zero, reversed=negative, in_debye=_all(lambda t, x: x / 0.2081943),
          billion=billion, shuffled_in_time=shuffled, one_frame_zero=one_zero, constant=constant,
          one_frame_reversed=one_negative, times_1_01=percent)  # fmt: skip
_register("mulliken_charges", zero=zero, reversed=negative, billion=billion,
          shuffled_in_time=shuffled, one_frame_zero=one_zero, one_frame_reversed=one_negative,
          constant=constant, other_atoms=rolled, times_1_01=percent)  # fmt: skip
_register("scf_cycles", billion=billion, minus_7=_all(lambda t, x: x * 0 - 7), zero=zero,
          one_more=_all(lambda t, x: x + 1))  # fmt: skip
_register("scf_converged", seven=_all(lambda t, x: x * 0 + 7), one_frame_7=_one(lambda t, x: x + 6))
_register("raw_net_force", billion=billion, zero=zero, a_tenth_of_an_eV=_all(lambda t, x: x + 0.1))
_register("raw_net_torque", billion=billion, zero=zero, a_tenth_of_an_eV=_all(lambda t, x: x + 0.1))
_register("masses", times_1_01=percent, zero=zero, billion=billion)
_register("atomic_numbers", carbon=_all(lambda t, x: x * 0 + 6), minus=negative, zero=zero)
_register(
    "relaxed_positions", zero=zero, billion=billion, times_1_01=percent, inverted=negative,
    noise_of_0_01_A=noisy, shifted=_all(lambda t, x: x + 1.0), in_bohr=bohr,
    other_atoms=_all(lambda t, x: np.roll(x, 1, axis=0)),
)  # fmt: skip
_register(
    "hessian", zero=zero, negative=negative, billion=billion, times_1_01=percent,
    times_1_2=_all(lambda t, x: 1.2 * x), in_hartree=hartree, per_bohr=bohr,
    other_atoms=_all(lambda t, x: np.roll(x, (3, 3), axis=(0, 1))),
    noise=_all(lambda t, x: x + 0.01 * (n := t.rng.normal(size=x.shape)) + 0.01 * n.T),
    upper_half=_all(lambda t, x: np.triu(x)),
)  # fmt: skip
_register("time", shifted=_all(lambda t, x: x + 1), twice=_all(lambda t, x: 2 * x),
          one_late=_one(lambda t, x: x + 0.4))  # fmt: skip
_register("step", shifted=_all(lambda t, x: x + 1), twice=_all(lambda t, x: 2 * x),
          one_late=_one(lambda t, x: x + 1))  # fmt: skip
_register("residual_force", zero=zero, negative=negative, billion=billion)
_register("outer_step", zero=zero, negative=negative, billion=billion,
          twice=_all(lambda t, x: 2 * x), half=_all(lambda t, x: x / 2),
          one_frame_twice=_one(lambda t, x: 2 * x))  # fmt: skip


@forgery("evaluated: the first frame alone", "evaluated")
def _(t: Trajectory) -> None:
    t.blank(np.arange(t.n_frames) > 0)


@forgery("evaluated: first, middle and last alone", "evaluated")
def _(t: Trajectory) -> None:
    known = np.flatnonzero(t.evaluated)
    t.blank(~np.isin(np.arange(t.n_frames), known[[0, len(known) // 2, -1]]))


@forgery("evaluated: every second left out", "evaluated")
def _(t: Trajectory) -> None:
    t.blank(~np.isin(np.arange(t.n_frames), np.flatnonzero(t.evaluated)[::2]))


@forgery("evaluated: every second left out, outer steps twice", "evaluated", "outer_step")
def _(t: Trajectory) -> None:
    t.blank(~np.isin(np.arange(t.n_frames), np.flatnonzero(t.evaluated)[::2]))
    t.frames["outer_step"] *= 2


@forgery("evaluated: three alone, outer steps as long as that", "evaluated", "outer_step")
def _(t: Trajectory) -> None:
    known = np.flatnonzero(t.evaluated)
    kept = known[[0, len(known) // 3, 2 * (len(known) // 3)]]
    t.take(slice(kept[-1] + 1))
    t.blank(~np.isin(np.arange(t.n_frames), kept))
    t.frames["outer_step"][1:] = kept[1] * t.metadata.store_every_fs


@forgery("evaluated: the last half left out", "evaluated")
def _(t: Trajectory) -> None:
    t.blank(np.arange(t.n_frames) > t.middle)


@forgery("evaluated: one left out", "evaluated")
def _(t: Trajectory) -> None:
    known = np.flatnonzero(t.evaluated)
    t.blank(np.arange(t.n_frames) == known[len(known) // 2])


@forgery("evaluated: said of one frame that has no energies", "evaluated")
def _(t: Trajectory) -> None:
    t.frames["evaluated"][np.flatnonzero(~t.evaluated)[5]] = 1


@forgery("evaluated: not said of one frame that has energies", "evaluated")
def _(t: Trajectory) -> None:
    known = np.flatnonzero(t.evaluated)
    t.frames["evaluated"][known[len(known) // 2]] = 0


@forgery("evaluated: said of all frames", "evaluated")
def _(t: Trajectory) -> None:
    t.frames["evaluated"][:] = 1


@forgery("evaluated: two", "evaluated")
def _(t: Trajectory) -> None:
    t.frames["evaluated"] *= 2


@forgery("forces, evaluated: one frame of forces no numbers", "forces", "evaluated")
def _(t: Trajectory) -> None:
    known = np.flatnonzero(t.evaluated)
    t.frames["forces"][known[len(known) // 2]] = np.nan


@forgery("evaluated: the level of each frame said to be the next one's", "evaluated")
def _(t: Trajectory) -> None:
    for name in ("evaluated", *LEVEL_FIELDS):
        t.frames[name] = np.roll(t.frames[name], 1, axis=0)


@forgery("evaluated: what lies between filled in by straight lines", "evaluated")
def _(t: Trajectory) -> None:
    known = np.flatnonzero(t.evaluated)
    frames = np.arange(known[-1] + 1)
    t.take(slice(len(frames)))
    for name in LEVEL_FIELDS:
        values = t.frames[name].reshape(len(frames), -1)
        filled = [np.interp(frames, known, column[known]) for column in values.T]
        t.frames[name][:] = np.transpose(filled).reshape(t.frames[name].shape)
    t.frames["conserved_quantity"] = t.frames["potential_energy"] + t.frames["kinetic_energy"]
    t.frames["evaluated"][:] = 1


@forgery("quality_flags: all raised", "quality_flags", keep_flags=True)
def _(t: Trajectory) -> None:
    t.frames["quality_flags"][:] = 2**32 - 1


@forgery("quality_flags: one frame small gap", "quality_flags", keep_flags=True)
def _(t: Trajectory) -> None:
    t.frames["quality_flags"][t.middle] = 16


@forgery("positions: shifted by 100 A", "positions")
def _(t: Trajectory) -> None:
    t.frames["positions"] += 100


@forgery("positions: drifting off by 1 A", "positions")
def _(t: Trajectory) -> None:
    t.frames["positions"] += np.linspace(0, 1, t.n_frames, dtype="f4")[:, None, None]


@forgery("positions, velocities, forces: two hydrogens swapped half way", *VECTORS)
def _(t: Trajectory) -> None:
    atoms = t.hydrogens()
    for name in VECTORS:
        t.frames[name][t.middle :, atoms] = t.frames[name][t.middle :, atoms[::-1]]


@forgery("positions: two hydrogens swapped in one frame", "positions")
def _(t: Trajectory) -> None:
    atoms = t.hydrogens()
    t.frames["positions"][t.middle, atoms] = t.frames["positions"][t.middle, atoms[::-1]]


@forgery("velocities: two hydrogens swapped throughout", "velocities")
def _(t: Trajectory) -> None:
    atoms = t.hydrogens()
    t.frames["velocities"][:, atoms] = t.frames["velocities"][:, atoms[::-1]]


@forgery("forces: two hydrogens swapped throughout", "forces")
def _(t: Trajectory) -> None:
    atoms = t.hydrogens()
    t.frames["forces"][:, atoms] = t.frames["forces"][:, atoms[::-1]]


@forgery("forces: net force left in", "forces")
def _(t: Trajectory) -> None:
    t.frames["forces"] += np.float32(0.001)


@forgery("velocities: tumbling", "velocities")
def _(t: Trajectory) -> None:
    t.frames["velocities"] += np.cross([0, 0, 1e-3], t.frames["positions"]).astype("f4")
    energies_of_velocities(t)


@forgery("all: frames shuffled", *VECTORS)
def _(t: Trajectory) -> None:
    t.take(t.rng.permutation(t.n_frames))


@forgery("all: two neighbouring frames exchanged", *VECTORS)
def _(t: Trajectory) -> None:
    order = np.arange(t.n_frames)
    order[[t.middle, t.middle + 1]] = order[[t.middle + 1, t.middle]]
    t.take(order)


@forgery("all: backwards in time", *VECTORS)
def _(t: Trajectory) -> None:
    t.take(slice(None, None, -1))


@forgery("all: one frame twice", *VECTORS)
def _(t: Trajectory) -> None:
    order = np.arange(t.n_frames)
    order[t.middle] = t.middle - 1
    t.take(order)


@forgery("all: frozen from half way", *VECTORS)
def _(t: Trajectory) -> None:
    t.take(np.minimum(np.arange(t.n_frames), t.middle))


@forgery("all: one frame left out", *VECTORS)
def _(t: Trajectory) -> None:
    t.take(np.delete(np.arange(t.n_frames), t.middle))


@forgery("all: a tenth of the frames left out", *VECTORS)
def _(t: Trajectory) -> None:
    start = t.middle
    t.take(np.delete(np.arange(t.n_frames), np.arange(start, start + t.n_frames // 10)))


@forgery("all: every second frame left out", *VECTORS)
def _(t: Trajectory) -> None:
    t.take(slice(None, None, 2))


@forgery("all: turned by a quarter half way", *VECTORS)
def _(t: Trajectory) -> None:
    _turn(t, slice(t.middle, None), np.array([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]]))


@forgery("all: mirrored half way", *VECTORS)
def _(t: Trajectory) -> None:
    _turn(t, slice(t.middle, None), np.diag([1.0, 1.0, -1.0]))


@forgery("all: mirrored throughout", *VECTORS)
def _(t: Trajectory) -> None:
    _turn(t, slice(None), np.diag([1.0, 1.0, -1.0]))


@forgery("all: turned throughout", *VECTORS)
def _(t: Trajectory) -> None:
    _turn(t, slice(None), np.array([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]]))


@forgery("all: backwards in time, velocities reversed", *VECTORS)
def _(t: Trajectory) -> None:
    t.take(slice(None, None, -1))
    t.frames["velocities"] = -t.frames["velocities"]


def _turn(t: Trajectory, frames: slice, turn: np.ndarray) -> None:
    pseudo = np.linalg.det(turn)  # a torque is no vector: it keeps its sign where those change
    for name in (*VECTORS, "dipole", "raw_net_force", "raw_net_torque"):
        sign = pseudo if name == "raw_net_torque" else 1.0
        t.frames[name][frames] = sign * t.frames[name][frames] @ turn
