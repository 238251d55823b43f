"""The part of `tg80 validate` that looks at every single frame: what must hold in each of them.

These need no statistics and hold at any spacing of the frames: values are finite and of a
possible size, energies add up, net force, net torque and both momenta vanish, the centre of mass
rests at the origin, atoms keep their bonds, and no frame is there twice.
"""

import numpy as np

from tg80.constants import ACCELERATION, BOLTZMANN_EV_PER_K
from tg80.elements import SYMBOLS
from tg80.shards.checks.evidence import (
    CENTRE_TOLERANCE_A,
    FORCE_TOLERANCE,
    KINETIC_TOLERANCE,
    LARGEST,
    MOMENTUM_TOLERANCE,
    Evidence,
)
from tg80.shards.fields import FIELDS, LEVEL_FIELDS, MISSING, QUALITY_FLAGS
from tg80.shards.problems import Findings
from tg80.theory import LEVELS

# Distances as shares of the sum of covalent radii: a triple bond is 0.77, a hot C-H bond 0.8.
CLOSEST = 0.5
LONGEST = 2.0
# Steps of an atom between two frames, and speeds, in units of its thermal speed. The largest of a
# million draws from Maxwell's distribution is 5.6.
FASTEST = 7.0
# Fluctuations of the conserved quantity: beside those of the potential energy, and the largest
# beside the usual one.
CONSERVED_SHARE = 0.3  # 0.04 in most, 0.17 in water with steps of 1 fs
OUTLIER = 15.0
# Energy of atomisation for each bond order, eV: 1.5 in Br2, 4.5 in H2, about 4 in most molecules.
ATOMISATION_EV = (0.5, 9.0)
FEW_FRAMES = 20
# Velocity Verlet: K + V = constant + h^2/8 sum F^2/m, for harmonic vibrations that keep their
# energy. Least and largest slope of the line through the frames: 0.58 to 1.01 in what is right.
SLOPE, SLOPE_FRAMES = (0.3, 1.1), 200
# Length of all velocities or forces of a frame beside the usual one: 0.08 or more in what is right.
SMALLEST = 0.003
# Energies of canonical starts spread by T / sqrt(degrees of freedom); this many are allowed.
HEAT_SPREADS, HEAT_LENGTH_FS = 6.0, 500.0
LONGEST_STILL = 5  # frames in which a quantity may keep its value
NOT_NEGATIVE = ("homo_lumo_gap", "kinetic_energy")


def check_ranges(evidence: Evidence, found: Findings) -> None:
    """All values are finite, of a possible size, and missing where the level was not evaluated."""
    missing = ~evidence.evaluated
    for name, values in (*evidence.frames.items(), *evidence.static.items()):
        if name in LEVEL_FIELDS and missing.any():
            nothing = np.full_like(values[missing], MISSING.get(name, np.nan))
            if not np.array_equal(values[missing], nothing, equal_nan=True):
                message = f"{name} holds values where the level was not evaluated"
                found.error("missing", message)
            values = values[~missing]
        sizes = np.abs(values.astype(float))
        if not np.all(np.isfinite(sizes)):
            found.error("finite", f"{name} holds values that are no finite numbers")
        elif sizes.max() > LARGEST[name]:
            found.error("range", f"{name} holds {sizes.max():.3g}, more than {LARGEST[name]:g}")
        not_negative, positive = name in NOT_NEGATIVE, name in ("masses", "atomic_numbers")
        if (not_negative and np.any(values < 0)) or (positive and np.any(values <= 0)):
            found.error("range", f"{name} holds {values.min():g}")


def check_kinetic_energy(evidence: Evidence, found: Findings) -> None:
    """The stored kinetic energy is that of the stored velocities."""
    squared = np.einsum("tij,tij->ti", evidence.velocities, evidence.velocities)
    kinetic = 0.5 * squared @ evidence.masses / ACCELERATION
    stored = evidence.frames["kinetic_energy"]
    off = np.abs(kinetic - stored) / np.maximum(kinetic, max(float(np.median(kinetic)), 1e-6))
    message = "is not that of the velocities in frame {frame}"
    found.above("kinetic energy", off, KINETIC_TOLERANCE, message)


def check_total_energy(evidence: Evidence, found: Findings) -> None:
    """Without a thermostat the conserved quantity is kinetic plus potential energy."""
    if evidence.metadata.ensemble != "nve":
        return
    frames = evidence.frames
    total = frames["kinetic_energy"] + frames["potential_energy"]
    off = np.abs(total - frames["conserved_quantity"])
    message = "kinetic + potential is not the conserved one: {worst:.2g} eV off in frame {frame}"
    found.above("energies", off, 1e-6 + 1e-10 * np.abs(total).max(), message)


def check_conserved_quantity(evidence: Evidence, found: Findings) -> None:
    """The conserved quantity fluctuates little, and in no frame much more than in the others."""
    if evidence.n_frames < FEW_FRAMES:
        return
    conserved = evidence.frames["conserved_quantity"]
    times = np.arange(evidence.n_frames) / evidence.n_frames
    rest = conserved - conserved.mean()
    rest = rest - np.polyval(np.polyfit(times, rest, 1), times)
    usual = 1.4826 * float(np.median(np.abs(rest)))
    potential = float(np.std(evidence.frames["potential_energy"]))
    if evidence.metadata.ensemble == "nve" and usual > CONSERVED_SHARE * potential + 1e-6:
        message = f"fluctuates by {usual:.2g} eV, the potential energy by {potential:.2g} eV"
        found.error("conserved quantity", message)
    else:
        message = f"is {{worst:.2g}} eV off in frame {{frame}}; its fluctuation is {usual:.2g} eV"
        found.above("conserved quantity", np.abs(rest), OUTLIER * usual + 1e-5, message)


def check_verlet_energy(evidence: Evidence, found: Findings) -> None:
    """What velocity Verlet conserves follows the squares of the forces."""
    metadata = evidence.metadata
    verlet = metadata.integrator == "verlet" and metadata.ensemble == "nve"
    if not verlet or evidence.n_frames < SLOPE_FRAMES:
        return
    squares = np.einsum("tai,tai->t", evidence.accelerations, evidence.forces)
    expected = squares * metadata.time_step_fs**2 / 8
    rest = evidence.frames["conserved_quantity"] - evidence.frames["conserved_quantity"].mean()
    spread = float(np.sum((expected - expected.mean()) ** 2))
    slope = float(np.sum(rest * (expected - expected.mean()))) / max(spread, 1e-300)
    if not SLOPE[0] < slope < SLOPE[1]:
        message = f"answers the squares of the forces with slope {slope:.2g}"
        found.error("conserved quantity", f"{message}, not {SLOPE[0]:g} to {SLOPE[1]:g}")


def check_atomisation(evidence: Evidence, found: Findings) -> None:
    """The potential energy lies below that of the isolated atoms by about that of the bonds."""
    level = LEVELS.get(evidence.metadata.level)
    stated = evidence.metadata.level_settings.get("isolated_atom_energies") or {}
    energies = level.isolated_atom_energies if level else stated
    symbols = [SYMBOLS[number] for number in evidence.numbers]
    if not all(isinstance(energies.get(symbol), int | float) for symbol in symbols):
        return
    gained = sum(energies[symbol] for symbol in symbols) - evidence.frames["potential_energy"]
    orders = sum(order for *_, order in evidence.bonds)
    each = gained / max(orders, 1.0)
    low, high = ATOMISATION_EV
    if each.min() < low or each.max() > high:
        worst = each.min() if each.min() < low else each.max()
        found.error(
            "potential energy",
            f"{worst:.3g} eV below the isolated atoms for each bond, not {low:g} to {high:g}",
        )


def check_rest(evidence: Evidence, found: Findings) -> None:
    """The centre of mass rests at the origin; both momenta vanish."""
    off = np.linalg.norm(evidence.centres, axis=1)
    message = "the centre of mass is {worst:.2g} A off the origin in frame {frame}"
    found.above("centre", off, CENTRE_TOLERANCE_A, message)
    momenta = evidence.masses[:, None] * evidence.velocities
    rounding = evidence.masses * FIELDS["velocities"].largest_rounding
    names = ("linear momentum", "angular momentum")
    _check_sums(names, momenta, MOMENTUM_TOLERANCE, rounding, evidence, found)


def check_forces(evidence: Evidence, found: Findings) -> None:
    """Net force and net torque vanish."""
    rounding = np.full(evidence.n_atoms, FIELDS["forces"].largest_rounding)
    names = ("net force", "net torque")
    _check_sums(names, evidence.forces, FORCE_TOLERANCE, rounding, evidence, found)


def _check_sums(
    names: tuple[str, str],
    vectors: np.ndarray,
    tolerance: float,
    rounding: np.ndarray,
    evidence: Evidence,
    found: Findings,
) -> None:
    """Vectors (n_frames, n_atoms, 3) and their moments add up to nothing, but for rounding."""
    axis = _molecular_axis(evidence) if evidence.metadata.linear else None
    arms = np.linalg.norm(evidence.relative, axis=2)
    lengths = np.linalg.norm(vectors, axis=2)
    turning = np.cross(evidence.relative, vectors).sum(axis=1)
    if axis is not None:  # a bending linear molecule has angular momentum about its axis
        turning -= np.einsum("ti,ti->t", turning, axis)[:, None] * axis
    for check, totals, parts, roundings in (
        (names[0], vectors.sum(axis=1), lengths, rounding.sum()),
        (names[1], turning, arms * lengths, arms @ rounding),
    ):
        beyond = np.maximum(np.linalg.norm(totals, axis=1) - roundings, 0.0)
        share = beyond / max(float(parts.sum(axis=1).max()), 1e-12)
        message = "does not vanish: {worst:.1e} of the sum of its parts in frame {frame}"
        found.above(check, share, tolerance, message)


def _molecular_axis(evidence: Evidence) -> np.ndarray:
    """(n_frames, 3) unit vectors along which each frame's mass is most spread."""
    relative = evidence.relative
    spread = np.einsum("a,tai,taj->tij", evidence.masses, relative, relative)
    return np.linalg.eigh(spread)[1][:, :, 2]


def check_distances(evidence: Evidence, found: Findings) -> None:
    """No two atoms are too close, and bonds are none too long in frames that no flag excuses."""
    lengths = evidence.distances / evidence.touching
    message = f"two atoms in frame {{frame}} are at less than {CLOSEST:g} of the sum of their radii"
    found.above("distances", -lengths.min(axis=1), -CLOSEST, message)
    reacted = QUALITY_FLAGS["bond_broken"] | QUALITY_FLAGS["hydrogen_transferred"]
    longest = lengths[:, evidence.bonds_apart == 1].max(axis=1, initial=0.0)
    longest = np.where(evidence.frames["quality_flags"] & reacted, 0.0, longest)
    message = "a bond is {worst:.2g} times the sum of its radii in frame {frame}"
    found.above("distances", longest, LONGEST, message)


def check_steps_and_speeds(evidence: Evidence, found: Findings) -> None:
    """No atom is, or moves from frame to frame, much faster than the temperature lets it."""
    thermal = _thermal_speeds(evidence)
    speeds = (np.linalg.norm(evidence.velocities, axis=2) / thermal).max(axis=1)
    message = "an atom has {worst:.3g} times its thermal speed in frame {frame}"
    found.above("speeds", speeds, FASTEST, message)
    if evidence.n_frames < 2:
        return
    moved = np.linalg.norm(np.diff(evidence.positions, axis=0), axis=2)
    steps = (moved / (thermal * evidence.spacing_fs)).max(axis=1)
    message = "an atom moves at {worst:.3g} times its thermal speed from frame {frame} on"
    found.above("displacements", steps, FASTEST, message)


def _thermal_speeds(evidence: Evidence) -> np.ndarray:
    """(n_atoms,) A/fs, of the temperature stated or that of the hottest frame, if higher."""
    kinetic = evidence.frames["kinetic_energy"].mean() / evidence.metadata.degrees_of_freedom
    thermal = max(BOLTZMANN_EV_PER_K * evidence.metadata.temperature_k, 2 * kinetic)
    return np.sqrt(thermal * ACCELERATION / evidence.masses)


def check_heat(evidence: Evidence, found: Findings) -> None:
    """The mean temperature is one that a start at the temperature stated can lead to."""
    metadata = evidence.metadata
    if metadata.length_fs < HEAT_LENGTH_FS:
        return
    kinetic = float(evidence.frames["kinetic_energy"].mean())
    degrees = metadata.degrees_of_freedom
    ratio = 2 * kinetic / (degrees * BOLTZMANN_EV_PER_K * metadata.temperature_k)
    spread = HEAT_SPREADS / np.sqrt(degrees)
    if not 1 - spread < ratio < 1 + spread:
        message = f"mean temperature is {ratio:.2g} times the {metadata.temperature_k:g} K stated"
        found.error("heat", f"{message}, off by at most {spread:.2g}")


def check_repeats(evidence: Evidence, found: Findings) -> None:
    """No frame is a copy of another: only two atoms come back to the last digit stored."""
    if evidence.n_frames < 2 or evidence.n_atoms == 2:
        return
    names = ("positions", "velocities", "potential_energy")
    rows = [evidence.frames[name].reshape(evidence.n_frames, -1).astype(float) for name in names]
    words = np.ascontiguousarray(np.concatenate(rows, axis=1))
    keys = words.view(np.dtype((np.void, words[0].nbytes))).ravel()
    _, first, counts = np.unique(keys, return_index=True, return_counts=True)
    if counts.max() > 1:
        found.error("repeats", f"frame {first[counts.argmax()]} is there {counts.max()} times")
        return
    for name in ("positions", "velocities", "forces"):
        same = np.all(np.diff(evidence.frames[name], axis=0) == 0, axis=(1, 2))
        if same.any():
            message = f"{name} of frames {same.argmax()} and {same.argmax() + 1} are the same"
            found.error("repeats", message)


def check_life(evidence: Evidence, found: Findings) -> None:
    """Velocities vanish in no frame, and the kinetic energy does not stand still."""
    sizes = np.linalg.norm(evidence.velocities, axis=(1, 2))
    _check_life("velocities", sizes, ("kinetic_energy",), evidence, found)


def check_life_at_level(evidence: Evidence, found: Findings) -> None:
    """Forces vanish in no frame, and nothing that vibration changes stands still."""
    sizes = np.linalg.norm(evidence.forces, axis=(1, 2))
    # A run without equilibration starts from the relaxed structure, where there are no forces.
    relaxed = np.abs(evidence.relative[0] - evidence.reference).max() < CENTRE_TOLERANCE_A
    if relaxed and len(sizes) > 1:
        sizes[0] = sizes[1]
    names = ("potential_energy", "homo_lumo_gap", *_OF_UNLIKE_ATOMS)
    _check_life("forces", sizes, names, evidence, found)


def _check_life(
    what: str, sizes: np.ndarray, names: tuple[str, ...], evidence: Evidence, found: Findings
) -> None:
    if evidence.n_atoms > 2:
        message = f"{what} are next to zero in frame {{frame}}"
        least = SMALLEST * float(np.median(sizes))
        found.above("vanishing", np.where(sizes == 0, np.inf, -sizes), -least, message)
    for name in names:
        if name in _OF_UNLIKE_ATOMS and len(np.unique(evidence.numbers)) == 1:
            continue
        values = evidence.frames[name].reshape(evidence.n_frames, -1)
        still = np.concatenate([[False], np.all(np.diff(values, axis=0) == 0, axis=1), [False]])
        edges = np.flatnonzero(np.diff(still))
        least = LONGEST_STILL
        if name in _OF_UNLIKE_ATOMS:  # in some molecules they change by less than is kept of them
            least = max(4 * LONGEST_STILL, int(0.4 * evidence.n_frames))
        if len(edges) and (edges[1::2] - edges[::2]).max() >= least:
            longest = np.bincount(edges[::2], edges[1::2] - edges[::2])
            message = f"{name} keeps its value from frame {{frame}} on"
            found.above("standing still", longest, 0, message)


_OF_UNLIKE_ATOMS = ("dipole", "mulliken_charges")  # zero where all atoms are of one element


FRAME_CHECKS = (
    check_kinetic_energy,
    check_rest,
    check_distances,
    check_steps_and_speeds,
    check_heat,
    check_repeats,
    check_life,
)
# Of frames where the level was evaluated.
LEVEL_CHECKS = (
    check_total_energy,
    check_conserved_quantity,
    check_verlet_energy,
    check_atomisation,
    check_forces,
    check_life_at_level,
)
