"""The part of `tg80 validate` that looks at metadata, and asks all checks of the frames.

Checks come in stages: one that finds errors ends it, since momenta and averages of such data
would only repeat the complaint.
"""

import hashlib
import json
from collections.abc import Callable
from functools import wraps

import numpy as np
from pydantic import ValidationError

from tg80.chemistry import mechanics
from tg80.constants import masses_of
from tg80.errors import UserError, missing_package
from tg80.shards.checks.electrons import check_charges, check_dipole, check_raw, check_scf
from tg80.shards.checks.evidence import Evidence
from tg80.shards.checks.frames import FRAME_CHECKS, LEVEL_CHECKS, check_ranges
from tg80.shards.checks.geometry import check_geometry
from tg80.shards.checks.motion import check_motion, check_work
from tg80.shards.checks.relaxed import check_hessian, check_relaxed, check_stereo
from tg80.shards.fields import QUALITY_FLAGS
from tg80.shards.metadata import ShardMetadata
from tg80.shards.problems import Findings
from tg80.shards.quality import Quality
from tg80.shards.shard import Shard
from tg80.theory import LEVELS

# Standard atomic weights are revised by less than this; a heavier isotope is farther off.
MASS_TOLERANCE = 1e-3
START_TOLERANCE_EV = 1e-3
LEAST_EVALUATED = 0.05  # share of the frames; with less, energies and forces are not worth much
STATISTICS_TOLERANCE = 0.01  # what is stated may come from values before they were rounded


def check_content(shard: Shard, metadata: ShardMetadata, found: Findings) -> Evidence:
    """Add to `found` what is wrong with the metadata and the frames of an open shard.

    Returns:
        What was read of it.
    """
    _check_name(metadata, found)
    evidence = Evidence.of_shard(shard)
    check_evidence(evidence, found)
    return evidence


def check_evidence(evidence: Evidence, found: Findings) -> None:
    """Add to `found` what is wrong with metadata and arrays, wherever they come from."""
    with np.errstate(all="ignore"):
        for stage in STAGES:
            for check in stage:
                _ask(check, evidence, found)
            if found.has_errors:
                return


def _ask(check: Callable, evidence: Evidence, found: Findings) -> None:
    """Run one check: data that it cannot even be computed of are no honest ones."""
    try:
        check(evidence, found)
    except ModuleNotFoundError as error:
        what = check.__name__.removeprefix("_").removeprefix("check_")
        found.warning(what, f"not checked: {missing_package(error)}")
    except (ArithmeticError, LookupError, ValueError) as error:  # LinAlgError is a ValueError
        what = check.__name__.strip("_").replace("_", " ")
        found.error("impossible", f"{what}: it cannot be computed of these data ({error})")


def _check_name(metadata: ShardMetadata, found: Findings) -> None:
    expected = f"{metadata.name}-r{metadata.replica}"
    # A publication without folders puts the level in front: see `tg80.release.publish`.
    if found.path.stem not in (expected, f"{metadata.level}--{expected}"):
        found.warning("name", f"the file holds {expected}, but is called {found.path.stem}")


def _check_level(evidence: Evidence, found: Findings) -> None:
    metadata = evidence.metadata
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


def _check_atoms(evidence: Evidence, found: Findings) -> None:
    numbers = evidence.numbers
    if any(not 0 <= atom < len(numbers) for i, j, _ in evidence.metadata.bonds for atom in (i, j)):
        found.error("molecule", "a bond names an atom that is not there")
    if np.max(np.abs(evidence.masses / masses_of(numbers) - 1)) > MASS_TOLERANCE:
        found.error("masses", "masses are not those of the elements")


def _check_molecule(evidence: Evidence, found: Findings) -> None:
    from rdkit import rdBase

    from tg80.chemistry.molecule import graph_of_mapped_smiles, molecule_from_smiles

    metadata = evidence.metadata
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
            message = f"{name} is not that of the SMILES {metadata.smiles}"
            found.error("molecule", message, level=level)
    with rdBase.BlockLogs():
        mapped = graph_of_mapped_smiles(metadata.mapped_smiles)
    numbers = [] if mapped is None else [atom.GetAtomicNum() for atom in mapped.GetAtoms()]
    if not np.array_equal(evidence.numbers, numbers):
        found.error("molecule", "atomic numbers are not those of the atom-mapped SMILES")


def _check_freedom(evidence: Evidence, found: Findings) -> None:
    metadata = evidence.metadata
    linear = mechanics.is_linear(evidence.masses, evidence.static["relaxed_positions"])
    if linear != metadata.linear:
        told, is_ = (" not" if not flag else "" for flag in (metadata.linear, linear))
        found.error("freedom", f"molecule is stated{told} linear, but is{is_}")
    expected = 3 * evidence.n_atoms - (5 if metadata.linear else 6)
    if metadata.degrees_of_freedom != expected:
        stated = metadata.degrees_of_freedom
        found.error("freedom", f"{stated} degrees of freedom stated, {expected} expected")


def _check_times(evidence: Evidence, found: Findings) -> None:
    frames, metadata = evidence.frames, evidence.metadata
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
        elif np.max(np.abs(steps * metadata.time_step_fs - times)) > 1e-6 * max(1.0, times[-1]):
            found.error("time", f"times are not the steps of {metadata.time_step_fs:g} fs each")
    if abs(times[-1] - metadata.length_fs) > 1e-6 * max(1.0, times[-1]):
        found.error("frames", f"{metadata.length_fs:g} fs stated, {times[-1]:g} fs stored")


def _check_outer_steps(evidence: Evidence, found: Findings) -> None:
    """`learned` says how its steps went; no other integrator does."""
    learned = evidence.metadata.integrator == "learned"
    if learned != ("outer_step" in evidence.frames):
        found.error("outer steps", "the fields of `learned` do not go with the integrator")
        return
    if not learned:
        return
    outer, residual = evidence.frames["outer_step"], evidence.frames["residual_force"]
    steps = outer / evidence.metadata.time_step_fs
    if not evidence.evaluated[0]:
        found.error("outer steps", "the level was not evaluated in the first frame")
        return
    if np.any(residual <= 0) or np.any(outer[1:] <= 0) or np.any(np.abs(steps % 1) > 1e-6):
        found.error("outer steps", "an outer step or a residual force is not positive")
    elif "evaluated" in evidence.frames:
        _check_ends(evidence, np.round(steps).astype(int), found)


def _check_ends(evidence: Evidence, outer: np.ndarray, found: Findings) -> None:
    """The level was evaluated where outer steps end, and only there.

    Args:
        evidence: of an integrator `learned`.
        outer: (n_frames,) inner steps of each outer one.
        found: takes what is wrong.
    """
    known = np.flatnonzero(evidence.evaluated)
    spacing = max(1, round(evidence.spacing_fs / evidence.metadata.time_step_fs))
    before = known[np.searchsorted(known, np.arange(evidence.n_frames)) - 1]
    before[0] = 0
    now = np.arange(evidence.n_frames) * spacing
    since = now - before * spacing
    length = np.maximum(outer, 1)
    wrong = (since % length == 0) != evidence.evaluated
    if np.any(outer % spacing):
        # Steps end between frames, too, mostly at multiples of their length. Where that changes
        # between frames, nothing can be told.
        changes = np.flatnonzero(np.diff(outer) != 0) + 1
        inside = changes[before[changes] < changes - 1]
        wrong &= (now % length == 0) != evidence.evaluated
        wrong &= ~np.isin(before, before[inside])
    message = "the level was evaluated, or not, in frame {frame} against the outer steps"
    found.above("outer steps", wrong, 0, message)
    if since.max() > 3 * np.lcm(spacing, outer).max():
        fs = since.max() * evidence.metadata.time_step_fs
        found.error("outer steps", f"the level was not evaluated for {fs:g} fs")
    share = len(known) / evidence.n_frames
    if share < LEAST_EVALUATED:
        message = f"{len(known)} of {evidence.n_frames} frames have energies and forces"
        found.warning("outer steps", message)


def _check_start(evidence: Evidence, found: Findings) -> None:
    """A trajectory scaled to a mean energy begins at it."""
    target, conserved = evidence.metadata.target_energy_ev, evidence.frames["conserved_quantity"]
    if target is not None and abs(target - conserved[0]) > START_TOLERANCE_EV:
        message = f"the energy stated is {target:.6g} eV, the first frame has {conserved[0]:.6g} eV"
        found.error("start", message)


def _check_quality(evidence: Evidence, found: Findings) -> None:
    try:
        quality = evidence.quality
    except ValidationError:
        found.error("recipe", "its quality thresholds cannot be read")
        return
    for name, check in quality.checks.items():
        if check.verdict != "ok":
            found.error(name.replace("_", " "), check.message, level=check.verdict)
    stored, flags = evidence.frames["quality_flags"], quality.flags
    unknown = int(np.bitwise_or.reduce(stored)) & ~sum(QUALITY_FLAGS.values())
    if unknown:
        found.error("flags", f"quality flags hold unknown bits {unknown:#x}")
    else:
        message = "quality flags of frame {frame} are not those its data give"
        found.above("flags", stored != flags, 0, message)
    _compare_statistics(quality, evidence.metadata, found)


def _compare_statistics(quality: Quality, metadata: ShardMetadata, found: Findings) -> None:
    """What the file says of itself against what its frames say."""
    for name, check in quality.checks.items():
        stated = metadata.statistics.get(name)
        if not isinstance(stated, dict) or not isinstance(stated.get("value"), int | float):
            continue
        tolerance = STATISTICS_TOLERANCE * max(abs(check.value), check.error or 0.0, 1e-3)
        if abs(stated["value"] - check.value) > tolerance:
            found.error(
                "statistics",
                f"{name} is stated as {stated['value']:.6g}, the frames say {check.value:.6g}",
            )
    if metadata.statistics.get("n_flagged", quality.n_flagged) != quality.n_flagged:
        found.error("statistics", "the numbers of flagged frames are not those of the frames")


def _at_level(check: Callable[[Evidence, Findings], None]) -> Callable[[Evidence, Findings], None]:
    """The check, of the frames where the level was evaluated."""

    @wraps(check)
    def checked(evidence: Evidence, found: Findings) -> None:
        check(evidence.at_level, found.of_frames(np.flatnonzero(evidence.evaluated)))

    return checked


# Every check of the metadata and the arrays, in the order they are asked.
# fmt: off
STAGES = (
    (check_ranges,),
    (_check_level, _check_atoms, _check_molecule, _check_freedom, _check_times, _check_outer_steps),
    (
        *FRAME_CHECKS, *map(_at_level, (*LEVEL_CHECKS, check_charges, check_scf, check_raw)),
        _check_start, check_hessian, check_relaxed, check_stereo, _check_quality,
    ),
    (check_motion, check_work, *map(_at_level, (check_geometry, check_dipole))),
)
# fmt: on
