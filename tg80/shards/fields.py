"""Every stored field of a shard, once: name, HDF5 path, shape, dtype, unit on disk and as read.

Disk units are the ones MDAnalysis understands (it cannot read eV forces); readers return
electronvolt, angstrom and femtosecond.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tg80.constants import EV_PER_KJ_PER_MOL

TRAJECTORY = "particles/trajectory"
OBSERVABLES = "observables/trajectory"
PARAMETERS = "parameters/tg80"


@dataclass(frozen=True)
class Field:
    """One stored quantity.

    `path` is the H5MD element (a group with `value`, `step`, `time`) for per-frame fields and the
    dataset itself for static ones. Value as read = value on disk * `scale`. Values are rounded as
    far as physics does not see it, so that they compress: to multiples of `step`, a power of two in
    the unit on disk, and float32 values to `mantissa_bits` of their 23.
    """

    name: str
    path: str
    shape: tuple[str | int, ...]
    dtype: str
    disk_unit: str | None
    unit: str | None
    scale: float
    description: str
    mantissa_bits: int | None = None
    step: float | None = None

    @property
    def largest_rounding(self) -> float:
        """How far the rounding to `step` may move a vector of three values, in the unit as read."""
        return 0.5 * 3**0.5 * self.scale * (self.step or 0.0)

    @property
    def dataset_path(self) -> str:
        """HDF5 path of the values themselves."""
        return f"{self.path}/value" if self in (*FRAME_FIELDS, *LEARNED_FIELDS) else self.path

    @property
    def per_frame(self) -> bool:
        return self.shape[:1] == ("n_frames",)


def _particle(name, path, disk_unit, unit, scale, text, bits, step) -> Field:
    shape = ("n_frames", "n_atoms", 3)
    path = f"{TRAJECTORY}/{path}"
    return Field(name, path, shape, "f4", disk_unit, unit, scale, text, bits, step)


def _energy(name: str, text: str) -> Field:
    path, scale = f"{OBSERVABLES}/{name}", EV_PER_KJ_PER_MOL
    shape = ("n_frames",)
    return Field(name, path, shape, "f8", "kJ mol-1", "eV", scale, text, step=2.0**-16)


def _series(name, shape, dtype, disk_unit, unit, scale, text, bits=None, step=None) -> Field:
    path = f"{OBSERVABLES}/{name}"
    return Field(name, path, shape, dtype, disk_unit, unit, scale, text, bits, step)


_FORCE = ("kJ mol-1 Angstrom-1", "eV/A", EV_PER_KJ_PER_MOL)

# fmt: off
FRAME_FIELDS: tuple[Field, ...] = (
    _particle("positions", "position", "Angstrom", "A", 1.0, "nuclear positions", None, 2.0**-15),
    _particle(
        "velocities", "velocity", "Angstrom fs-1", "A/fs", 1.0, "the velocities integrated",
        12, 2.0**-20,
    ),
    _particle(
        "forces", "force", *_FORCE, "forces, net force and torque projected out", 12, 2.0**-5,
    ),
    _energy("potential_energy", "Born-Oppenheimer energy at the level of theory"),
    _energy("kinetic_energy", "nuclear kinetic energy"),
    _energy("conserved_quantity", "total energy less what the thermostat put in"),
    _series(
        "homo_lumo_gap", ("n_frames",), "f4", "kJ mol-1", "eV", EV_PER_KJ_PER_MOL,
        "Kohn-Sham (or tight-binding) HOMO-LUMO gap", step=2.0**-6,
    ),
    _series(
        "dipole", ("n_frames", 3), "f4", "e Angstrom", "e A", 1.0,
        "dipole moment; about the centre of mass for ions", step=2.0**-12,
    ),
    _series(
        "mulliken_charges", ("n_frames", "n_atoms"), "f4", "e", "e", 1.0, "Mulliken charges",
        step=2.0**-10,
    ),
    _series(
        "scf_cycles", ("n_frames",), "i4", None, None, 1.0,
        "Fock matrices built on the level's grid; -1 where not told or not evaluated",
    ),
    _series("scf_converged", ("n_frames",), "u1", None, None, 1.0, "1 if self-consistent"),
    _series(
        "raw_net_force", ("n_frames", 3), "f4", *_FORCE, "sum of the forces before projection",
        5, 2.0**-10,
    ),
    _series(
        "raw_net_torque", ("n_frames", 3), "f4", "kJ mol-1", "eV", EV_PER_KJ_PER_MOL,
        "torque of the forces about the centre of mass before projection", 5, 2.0**-10,
    ),
    _series(
        "quality_flags", ("n_frames",), "u4", None, None, 1.0, "bits of QUALITY_FLAGS, 0 if clean",
    ),
)

# Only in shards of the integrator `learned`.
LEARNED_FIELDS: tuple[Field, ...] = (
    _series(
        "residual_force", ("n_frames",), "f4", *_FORCE,
        "`learned` only: force that the inner potential misses, RMS of the outer steps since the "
        "last frame that was evaluated", 8,
    ),
    _series(
        "outer_step", ("n_frames",), "f4", "fs", "fs", 1.0,
        "`learned` only: length of the outer step that the frame lies in or ends; 0 at frame 0",
    ),
    _series(
        "evaluated", ("n_frames",), "u1", None, None, 1.0,
        "`learned` only: 1 where the level was evaluated, else 0",
    ),
)

STATIC_FIELDS: tuple[Field, ...] = (
    Field("atomic_numbers", f"{TRAJECTORY}/species", ("n_atoms",), "i4", None, None, 1.0,
          "atomic numbers, heavy atoms first"),
    Field("masses", f"{TRAJECTORY}/mass", ("n_atoms",), "f8", "u", "u", 1.0, "atomic masses"),
    Field("relaxed_positions", f"{PARAMETERS}/relaxed_positions", ("n_atoms", 3), "f8", "Angstrom",
          "A", 1.0, "start conformer relaxed with GFN2-xTB"),
    Field("hessian", f"{PARAMETERS}/hessian", ("3 n_atoms", "3 n_atoms"), "f8",
          "kJ mol-1 Angstrom-2", "eV/A^2", EV_PER_KJ_PER_MOL,
          "GFN2-xTB Hessian at relaxed_positions", step=2.0**-10),
)

# Stored once and hard-linked into every per-frame element; the path is that of the first.
AXIS_FIELDS: tuple[Field, ...] = (
    Field("step", f"{TRAJECTORY}/position/step", ("n_frames",), "i8", None, None, 1.0,
          "integration step"),
    Field("time", f"{TRAJECTORY}/position/time", ("n_frames",), "f8", "fs", "fs", 1.0,
          "time since frame 0"),
)
# fmt: on

ALL_FIELDS = (*FRAME_FIELDS, *AXIS_FIELDS, *STATIC_FIELDS)
# Known where the level was evaluated only; elsewhere this, NaN by default, is stored.
LEVEL_FIELDS: tuple[str, ...] = (
    "forces", "potential_energy", "conserved_quantity", "homo_lumo_gap", "dipole",
    "mulliken_charges", "scf_cycles", "scf_converged", "raw_net_force", "raw_net_torque",
    "residual_force",
)  # fmt: skip
MISSING = {"scf_cycles": -1, "scf_converged": 0}
FIELDS: dict[str, Field] = {field.name: field for field in (*ALL_FIELDS, *LEARNED_FIELDS)}

QUALITY_FLAGS: dict[str, int] = {
    "scf_not_converged": 1,
    "bond_broken": 2,
    "hydrogen_transferred": 4,
    "stereo_changed": 8,
    "small_gap": 16,
    "net_force": 32,
    "net_torque": 64,
}


def evaluated_frames(frames: Mapping[str, np.ndarray]) -> np.ndarray:
    """Where the level was evaluated, (n_frames,) bool: everywhere without the field `evaluated`."""
    if "evaluated" in frames:
        return np.asarray(frames["evaluated"]).astype(bool)
    return np.ones(len(frames["time"]), dtype=bool)


def fields_table() -> str:
    """The table of all fields in docs/dataset/data-format.md, in Markdown."""
    rows = ["| Field | Path | Shape | Type | Unit on disk | Unit as read | |", "|" + "---|" * 7]
    for field in (*ALL_FIELDS, *LEARNED_FIELDS):
        shape = ", ".join(str(size) for size in field.shape)
        units = [unit or "" for unit in (field.disk_unit, field.unit)]
        kept = f", {field.mantissa_bits} bits kept" if field.mantissa_bits else ""
        step = f", steps of 2^{round(math.log2(field.step))}" if field.step else ""
        cells = [f"`{field.name}`", f"`{field.path}`", shape, field.dtype + step + kept, *units]
        rows.append("| " + " | ".join([*cells, field.description]) + " |")
    return "\n".join(rows)


def flags_table() -> str:
    """The table of quality flags in docs/dataset/data-format.md, in Markdown."""
    rows = [f"| {bit} | `{name}` |" for name, bit in QUALITY_FLAGS.items()]
    return "\n".join(["| Bit | Flag |", "|---|---|", *rows])
