"""The part of `tg80 validate` that looks at metadata and frames: does it all fit together?

Stored positions, velocities and forces are float32, so quantities that vanish exactly in the run
are compared with the rounding of the sums they come from.
"""

import hashlib
import json
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import ValidationError

from tg80 import mechanics
from tg80.constants import ACCELERATION, masses_of
from tg80.errors import UserError
from tg80.fields import AXIS_FIELDS, FIELDS, FRAME_FIELDS, QUALITY_FLAGS
from tg80.judgement import Frames, find_changes, judge, thresholds_of
from tg80.metadata import ShardMetadata
from tg80.molecules import molecule_from_smiles
from tg80.shard import Shard
from tg80.theory import LEVELS

if TYPE_CHECKING:
    from tg80.validate import Findings

# Shares of the sum of absolute contributions, beyond the rounding of what is stored; far below
# thermal tumbling (0.1) or the noise of an integration grid left in the forces (1e-4 to 1e-3).
FORCE_TOLERANCE = 5e-5
MOMENTUM_TOLERANCE = 1e-4
KINETIC_TOLERANCE = 5e-4
# Trapezoid rule between frames 1 fs apart: a few per cent for the stretching of C-H bonds.
TRAPEZOID_TOLERANCE = 0.15
TRAPEZOID_SPACING_FS = 1.5
TRAPEZOID_FRAMES = 10


def check_content(shard: Shard, metadata: ShardMetadata, found: "Findings") -> None:
    """Add to `found` what is wrong with the metadata and the frames of an open shard."""
    frames = {f.name: shard.read(f.name) for f in (*FRAME_FIELDS, *AXIS_FIELDS)}
    _check_name(metadata, found)
    _check_level(metadata, found)
    _check_molecule(shard, metadata, found)
    _check_freedom(shard, metadata, found)
    _check_times(frames, metadata, found)
    bad = [name for name, values in frames.items() if not np.all(np.isfinite(values))]
    static = {name: shard.static(name) for name in ("masses", "relaxed_positions", "hessian")}
    bad += [name for name, values in static.items() if not np.all(np.isfinite(values))]
    for name in bad:
        found.error("finite", f"{name} holds values that are no finite numbers")
    if found.has_errors:  # momenta and averages of such data would only repeat the complaint
        return
    _check_energies(frames, shard.masses, metadata, found)
    _check_motion(frames, shard.masses, metadata, found)
    _check_trapezoid(frames, metadata, found)
    _check_quality(frames, shard, metadata, found)


def _check_name(metadata: ShardMetadata, found: "Findings") -> None:
    expected = f"{metadata.name}-r{metadata.replica}"
    # A publication without folders puts the level in front: see `tg80.publish`.
    if found.path.stem not in (expected, f"{metadata.level}--{expected}"):
        found.warning("name", f"the file holds {expected}, but is called {found.path.stem}")


def _check_level(metadata: ShardMetadata, found: "Findings") -> None:
    name, stated = metadata.level, metadata.level_settings
    if name.startswith("custom-"):
        stated = {k: v for k, v in stated.items() if k not in ("name", "isolated_atom_energies")}
        text = json.dumps(stated, sort_keys=True)
        if name != f"custom-{hashlib.sha256(text.encode()).hexdigest()[:8]}":
            found.error("level", f"{name} is not the name its settings have")
        return
    if name not in LEVELS:
        found.error("level", f"unknown level of theory {name!r}; known: {', '.join(LEVELS)}")
        return
    known = LEVELS[name].settings()
    for key in sorted(known.keys() & stated.keys() - {"elements", "max_cycles"}):
        if stated[key] != known[key]:
            found.error("level", f"{name} has {key} = {known[key]}, the file says {stated[key]}")


def _check_molecule(shard: Shard, metadata: ShardMetadata, found: "Findings") -> None:
    try:
        molecule = molecule_from_smiles(metadata.smiles)
    except UserError as error:
        found.error("molecule", f"SMILES {metadata.smiles}: {error}")
        return
    for name in ("smiles", "mapped_smiles", "inchikey", "formula", "charge", "bonds"):
        stated, expected = getattr(metadata, name), getattr(molecule, name)
        if stated != expected:
            # The canonical order of atoms may differ between versions of RDKit.
            level = "warning" if name in ("smiles", "mapped_smiles", "bonds") else "error"
            found.add(level, "molecule", f"{name} is not that of the SMILES {metadata.smiles}")
    numbers = shard.atomic_numbers
    mapped = _numbers_of_mapped_smiles(metadata.mapped_smiles)
    if not np.array_equal(numbers, mapped):
        found.error("molecule", "atomic numbers are not those of the atom-mapped SMILES")
        return
    if any(not 0 <= atom < len(numbers) for i, j, _ in metadata.bonds for atom in (i, j)):
        found.error("molecule", "a bond names an atom that is not there")
    if np.max(np.abs(shard.masses / masses_of(numbers) - 1)) > 1e-3:
        found.error("masses", "masses are not those of the elements")


def _numbers_of_mapped_smiles(mapped_smiles: str) -> list[int]:
    from rdkit import Chem, rdBase

    parameters = Chem.SmilesParserParams()
    parameters.removeHs = False
    with rdBase.BlockLogs():
        mol = Chem.MolFromSmiles(mapped_smiles, parameters)
    if mol is None:
        return []
    atoms = sorted(mol.GetAtoms(), key=lambda atom: atom.GetAtomMapNum())
    return [atom.GetAtomicNum() for atom in atoms]


def _check_freedom(shard: Shard, metadata: ShardMetadata, found: "Findings") -> None:
    linear = mechanics.is_linear(shard.masses, shard.static("relaxed_positions"))
    if linear != metadata.linear:
        told, is_ = (" not" if not flag else "" for flag in (metadata.linear, linear))
        found.error("freedom", f"molecule is stated{told} linear, but is{is_}")
    expected = 3 * shard.n_atoms - (5 if metadata.linear else 6)
    if metadata.degrees_of_freedom != expected:
        stated = metadata.degrees_of_freedom
        found.error("freedom", f"{stated} degrees of freedom stated, {expected} expected")


def _check_times(frames: Frames, metadata: ShardMetadata, found: "Findings") -> None:
    times, steps, spacing = frames["time"], frames["step"], metadata.store_every_fs
    n_frames = len(times)
    if n_frames != metadata.n_frames:
        found.error("frames", f"{metadata.n_frames} frames stated, {n_frames} stored")
    if times[0] != 0 or steps[0] != 0:
        found.error("time", "the first frame is not at step 0 and time 0")
    if n_frames > 1:
        if np.any(np.diff(times) <= 0) or np.any(np.diff(steps) <= 0):
            found.error("time", "times or steps do not increase")
        elif np.max(np.abs(times - spacing * np.arange(n_frames))) > 1e-6 * max(1.0, times[-1]):
            found.error("time", f"frames are not evenly {spacing:g} fs apart as stated")
        elif len(np.unique(np.diff(steps))) > 1:
            found.error("time", "steps between frames are not even")
    if abs(times[-1] - metadata.length_fs) > 1e-6 * max(1.0, times[-1]):
        found.error("frames", f"{metadata.length_fs:g} fs stated, {times[-1]:g} fs stored")


def _check_energies(
    frames: Frames, masses: np.ndarray, metadata: ShardMetadata, found: "Findings"
) -> None:
    velocities = frames["velocities"].astype(float)
    squared = np.einsum("tij,tij->ti", velocities, velocities)
    kinetic = 0.5 * squared @ masses / ACCELERATION
    stored = frames["kinetic_energy"]
    if np.max(np.abs(kinetic - stored)) > KINETIC_TOLERANCE * max(stored.max(), 1e-6):
        found.error("kinetic energy", "is not that of the velocities")
    if metadata.ensemble == "nve":
        total = stored + frames["potential_energy"]
        off = np.max(np.abs(total - frames["conserved_quantity"]))
        if off > 1e-6 + 1e-10 * np.max(np.abs(total)):
            found.error("energies", f"kinetic + potential is not the conserved one: {off:.2g} eV")


def _check_motion(
    frames: Frames, masses: np.ndarray, metadata: ShardMetadata, found: "Findings"
) -> None:
    """Net force, net torque and both momenta vanish in data made by projected forces."""
    positions, velocities, forces = (
        frames[name].astype(float) for name in ("positions", "velocities", "forces")
    )
    relative = positions - np.einsum("i,tij->tj", masses / masses.sum(), positions)[:, None]
    momenta = masses[:, None] * velocities
    axis = _molecular_axis(masses, relative) if metadata.linear else None
    arms = np.linalg.norm(relative, axis=2)
    force_rounding = np.full(len(masses), FIELDS["forces"].largest_rounding)
    for linear, angular, vectors, tolerance, rounding in (
        ("net force", "net torque", forces, FORCE_TOLERANCE, force_rounding),
        ("linear momentum", "angular momentum", momenta, MOMENTUM_TOLERANCE,
         masses * FIELDS["velocities"].largest_rounding),
    ):  # fmt: skip
        lengths = np.linalg.norm(vectors, axis=2)
        linear_rounding = np.full(len(lengths), rounding.sum())
        _compare_with_zero(linear, vectors.sum(axis=1), lengths, tolerance, linear_rounding, found)
        turning = np.cross(relative, vectors).sum(axis=1)
        if axis is not None:  # a bending linear molecule has angular momentum about its axis
            turning -= np.einsum("ti,ti->t", turning, axis)[:, None] * axis
        _compare_with_zero(angular, turning, arms * lengths, tolerance, arms @ rounding, found)


def _compare_with_zero(
    check: str, totals: np.ndarray, parts: np.ndarray, tolerance: float, rounding: np.ndarray,
    found: "Findings",
) -> None:  # fmt: skip
    """Whether sums (n_frames, 3) vanish beside the sizes (n_frames, n_atoms) of their parts.

    `rounding` (n_frames,) is how far the rounding of the parts may take a sum.
    """
    beyond = np.maximum(np.linalg.norm(totals, axis=1) - rounding, 0.0)
    share = beyond / max(float(parts.sum(axis=1).max()), 1e-12)
    worst = int(share.argmax())
    if share[worst] > tolerance:
        message = f"does not vanish: {share[worst]:.1e} of the sum of its parts in frame {worst}"
        found.error(check, message)


def _molecular_axis(masses: np.ndarray, relative: np.ndarray) -> np.ndarray:
    """(n_frames, 3) unit vectors along which each frame's mass is most spread."""
    spread = np.einsum("a,tai,taj->tij", masses, relative, relative)
    return np.linalg.eigh(spread)[1][:, :, 2]


def _check_trapezoid(frames: Frames, metadata: ShardMetadata, found: "Findings") -> None:
    """Displacements are those of the velocities, energy changes those of the forces.

    An independent look at units, signs and frame spacing: dx = v dt and dV = -F dx, by the
    trapezoid rule between neighbouring frames, as slopes of lines that should be 1.
    """
    if metadata.store_every_fs > TRAPEZOID_SPACING_FS or len(frames["time"]) < TRAPEZOID_FRAMES:
        return
    spacing = np.diff(frames["time"])[:, None, None]
    moved = np.diff(frames["positions"].astype(float), axis=0)
    velocities, forces = (frames[name].astype(float) for name in ("velocities", "forces"))
    by_velocity = 0.5 * (velocities[1:] + velocities[:-1]) * spacing
    work = -0.5 * np.einsum("tij,tij->t", forces[1:] + forces[:-1], moved)
    gained = np.diff(frames["potential_energy"])
    for check, left, right, what in (
        ("velocities", moved, by_velocity, "displacements are not those of the velocities"),
        ("forces", gained, work, "energy changes are not those of the forces"),
    ):
        norm = float(np.sum(right**2))
        slope = float(np.sum(left * right)) / norm if norm > 0 else 0.0
        if abs(slope - 1) > TRAPEZOID_TOLERANCE:
            found.error(check, f"{what}: their ratio is {slope:.3g}, not 1")


def judge_shard(shard: Shard, frames: Frames) -> dict[str, dict[str, Any]]:
    """All quality checks of a shard, from its frames and the limits in its recipe.

    Args:
        shard: an open shard.
        frames: every per-frame field and `time`, as read from it.

    Returns:
        Check by name, as `tg80.judgement.judge` gives them.

    Raises:
        ValidationError: the recipe's limits are none.
    """
    metadata = shard.metadata
    thresholds = thresholds_of(metadata.recipe)
    changes = find_changes(
        frames, shard.atomic_numbers, metadata.bonds, shard.static("relaxed_positions"), thresholds
    )
    return judge(
        frames,
        changes=changes,
        degrees_of_freedom=metadata.degrees_of_freedom,
        temperature_k=metadata.temperature_k,
        temperature_is_set=metadata.start == "mean-energy" or metadata.ensemble != "nve",
        thresholds=thresholds,
    )


def _check_quality(
    frames: Frames, shard: Shard, metadata: ShardMetadata, found: "Findings"
) -> None:
    try:
        checks = judge_shard(shard, frames)
    except ValidationError:
        found.error("recipe", "its quality thresholds cannot be read")
        return
    for name, result in checks.items():
        if result["verdict"] != "ok":
            found.add(result["verdict"], name.replace("_", " "), result["message"])
    _compare_statistics(checks, metadata, found)
    unknown = int(np.bitwise_or.reduce(frames["quality_flags"])) & ~sum(QUALITY_FLAGS.values())
    if unknown:
        found.error("flags", f"quality flags hold unknown bits {unknown:#x}")


def _compare_statistics(
    checks: dict[str, dict[str, Any]], metadata: ShardMetadata, found: "Findings"
) -> None:
    """What the file says of itself against what its frames say."""
    for name in ("drift", "temperature", "gap"):
        stated = metadata.statistics.get(name)
        if not isinstance(stated, dict) or not isinstance(stated.get("value"), int | float):
            continue
        value = checks[name]["value"]
        if abs(stated["value"] - value) > 1e-3 * max(abs(value), 1e-3):
            found.error(
                "statistics",
                f"{name} is stated as {stated['value']:.6g}, the frames say {value:.6g}",
            )
