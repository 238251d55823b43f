"""The part of `tg80 validate` that looks at neighbouring frames: do they belong to one motion?

Between two frames a time T apart, velocity Verlet with k steps moves an atom by exactly

    dx = T/2 (v0 + v1) + T^2 (1/12 + 1/(6 k^2)) (a0 - a1),    k = 1, 2,

and by nearly this if T is short beside the fastest vibration. What is left over ties positions,
velocities and forces together in every pair of frames. What a harmonic molecule leaves over follows
from its Hessian, so that the limits fit any spacing. Where the hydrogens are too fast for it, the
centres of mass of the heavy atoms with their hydrogens are looked at; where those are too fast too,
as a short triple bond, each pair of frames is joined by the harmonic motion itself.
"""

from dataclasses import dataclass

import numpy as np

from tg80.constants import ACCELERATION, BOLTZMANN_EV_PER_K
from tg80.shards.checks.evidence import Evidence, eigen_squares
from tg80.shards.fields import FIELDS
from tg80.shards.problems import Findings

# What anharmonicity and the integrator leave over, as a share of a step: Verlet with frames close
# together, Verlet else, multiple time steps, and thermostats.
EXACT, VERLET, STEPS, THERMOSTAT = 0.003, 0.02, 0.025, 0.08
# Of the expected rest: its root mean square, and that of the worst pair of frames.
USUAL, WORST = 4.0, 10.0
# Whatever is expected: beyond these nothing is left that ties the frames together.
MOST_USUAL, MOST_WORST = 0.85, 1.35
# A rest of this share says too little: the next way is tried.
USEFUL = 0.36
EXACT_FS, VERLET_STEP_FS = 2.0, 0.5  # longer steps leave over more
FEW_PAIRS = 10
FORCES_MATTER_FS = 4.0
# The trapezoid rule is off by up to 0.25 % at 1 fs and 3.1 % at 2 fs (dimethyl ether, GFN2-xTB).
WORK_SPACING_FS, WORK_TOLERANCE, WORK_OUTLIER = 3.1, 0.007, 25.0
# Harmonic motion is asked for where the molecule is harmonic: the mean energy of its modes in kT.
HARMONIC_ENERGY = (0.3, 2.0)
HARMONIC_USUAL, HARMONIC_WORST, HARMONIC_SLOPE = 0.9, 1.8, 0.3
HARMONIC_SPACING_FS = 12.0  # after longer times the phases of what is not quite harmonic are lost


@dataclass(frozen=True)
class Rest:
    """What is left over between neighbouring frames.

    Attributes:
        first: (n_pairs,) number of the first frame of each pair.
        rest, by_velocity, by_force: (n_pairs, n_bodies, 3) A, displacement = by_velocity +
            by_force + rest; None where forces are left out.
        masses: (n_bodies,) u.
        expected: root mean square of the rest as a share of that of `by_velocity`.
    """

    first: np.ndarray
    rest: np.ndarray
    by_velocity: np.ndarray
    by_force: np.ndarray | None
    masses: np.ndarray
    expected: float

    def size(self, vectors: np.ndarray) -> np.ndarray:
        """(n_pairs,) mass-weighted lengths."""
        return np.sqrt(np.einsum("tai,tai,a->t", vectors, vectors, self.masses))


def check_motion(evidence: Evidence, found: Findings) -> None:
    """Positions, velocities and forces of neighbouring frames belong to one motion.

    Where some frames have no forces, all are looked at without them and the others with them.
    """
    if evidence.n_frames < 2:
        return
    bodies = [groups for groups in (np.eye(evidence.n_atoms), evidence.groups) if len(groups) > 1]
    complete = bool(evidence.evaluated.all())
    for with_forces in (True,) if complete else (False, True):
        rests = [_rest(evidence, groups, with_forces) for groups in bodies]
        best = min(rests, key=lambda rest: rest.expected)
        if best.expected < USEFUL and len(best.first):
            _judge_rest(best, evidence, found.of_frames(best.first))
        elif complete or not with_forces:
            _check_harmonic_motion(evidence, found)


def _rest(evidence: Evidence, groups: np.ndarray, with_forces: bool) -> Rest:
    masses = groups @ evidence.masses
    weights = groups * evidence.masses / masses[:, None]
    x, v, a = (
        np.einsum("ga,tai->tgi", weights, vectors)
        for vectors in (evidence.positions, evidence.velocities, evidence.accelerations)
    )
    stride = _stride(evidence) if with_forces else 1
    spacing = stride * evidence.spacing_fs
    n_steps = max(1, round(spacing / evidence.metadata.time_step_fs))
    share = 1 / 12 + 1 / (6 * n_steps**2) if with_forces else 0.0
    expected = _expected(evidence, groups, masses, spacing, share)
    known = evidence.evaluated if with_forces else np.ones(evidence.n_frames, dtype=bool)
    first = np.flatnonzero(known[stride:] & known[:-stride])
    last = first + stride
    by_velocity = spacing / 2 * (v[last] + v[first])
    rest = x[last] - x[first] - by_velocity
    if not with_forces:
        return Rest(first, rest, by_velocity, None, masses, expected)
    by_force = share * spacing**2 * (a[first] - a[last])
    return Rest(first, rest - by_force, by_velocity, by_force, masses, expected)


def _stride(evidence: Evidence) -> int:
    """Frames between the two of a pair: over a short time the forces do next to nothing."""
    if _floor(evidence) == EXACT:
        return 1
    most = min(int(FORCES_MATTER_FS / evidence.spacing_fs), evidence.n_frames - 1)
    known = np.flatnonzero(evidence.evaluated)
    usual = int(np.median(np.diff(known))) if len(known) > 1 else 1
    return max(usual, most // usual * usual)


def _expected(
    evidence: Evidence, groups: np.ndarray, masses: np.ndarray, spacing: float, share: float
) -> float:
    """The rest of harmonic vibrations at equipartition, as a share of the steps by velocity."""
    spread = np.kron(groups, np.eye(3))
    squares = eigen_squares(spread @ evidence.static["hessian"] @ spread.T, masses)[0]
    n_rigid = 5 if evidence.metadata.linear or len(masses) == 2 else 6
    squares = np.sort(np.abs(squares))[n_rigid:]
    if not len(squares):
        return np.inf
    squares = np.maximum(squares, 1e-8)
    half = np.sqrt(squares) * spacing / 2
    rests = np.sin(half) * (1 - 4 * share * half**2) - half * np.cos(half)
    steps = half * np.cos(half)
    return float(np.sqrt(np.sum(rests**2 / squares) / np.sum(steps**2 / squares)))


def _judge_rest(rest: Rest, evidence: Evidence, found: Findings) -> None:
    floor = _floor(evidence)
    step = float(np.sqrt(np.mean(rest.size(rest.by_velocity) ** 2)))
    if step == 0:
        found.error("motion", "the velocities are zero")
        return
    rounding = FIELDS["positions"].largest_rounding * float(np.sqrt(rest.masses.sum())) / step
    shares = rest.size(rest.rest) / step
    usual = float(np.sqrt(np.mean(shares**2)))
    most = min(MOST_USUAL, floor + rounding + USUAL * rest.expected)
    most_once = min(MOST_WORST, 3 * (floor + rounding) + WORST * rest.expected)
    what = "positions, velocities and forces of neighbouring frames do not belong together"
    if len(shares) >= FEW_PAIRS and usual > most:
        found.error("motion", f"{what}: {usual:.2g} of a step is left over, at most {most:.2g}")
    else:
        message = f"{what}: from frame {{frame}} to the next {{worst:.2g}} of a step is left over"
        found.above("motion", shares, most_once, message)
    if len(shares) >= FEW_PAIRS:
        _judge_slopes(rest, floor, step, found)


def _floor(evidence: Evidence) -> float:
    metadata = evidence.metadata
    if metadata.ensemble != "nve":
        return THERMOSTAT
    if metadata.integrator != "verlet":
        return STEPS
    if evidence.spacing_fs <= EXACT_FS:
        return EXACT
    return VERLET * max(1.0, (metadata.time_step_fs / VERLET_STEP_FS) ** 2)


def _judge_slopes(rest: Rest, floor: float, step: float, found: Findings) -> None:
    """The scale and sign of velocities and forces, each with the other taken as it is."""
    weights = rest.masses[:, None]
    for check, part in (("velocities", rest.by_velocity), ("forces", rest.by_force)):
        if part is None:
            continue
        norm = float(np.sum(part**2 * weights))
        size = np.sqrt(norm / len(part))
        if size == 0:
            found.error(check, "are all zero, or the same in every frame")
            continue
        slope = 1 + float(np.sum(rest.rest * part * weights)) / norm
        rounding = 3 * FIELDS["positions"].largest_rounding * np.sqrt(weights.mean() / norm)
        tolerance = rounding + (floor + USUAL * rest.expected) * step / size
        if check == "velocities":
            tolerance = min(tolerance, 0.7)
        if abs(slope - 1) > tolerance:
            found.error(
                check,
                f"would have to be {slope:.3g} times as large to fit the displacements; "
                f"from 1 it may be off by {tolerance:.2g}",
            )


def check_work(evidence: Evidence, found: Findings) -> None:
    """The potential energy changes by the work of the forces, by the trapezoid rule."""
    known = np.flatnonzero(evidence.evaluated)
    apart = float(np.median(np.diff(known))) if len(known) > FEW_PAIRS else np.inf
    spacing = apart * evidence.spacing_fs
    if spacing > WORK_SPACING_FS:
        return
    first = known[:-1][np.diff(known) == apart]
    last, found = first + int(apart), found.of_frames(first)
    moved = evidence.positions[last] - evidence.positions[first]
    forces = evidence.forces[last] + evidence.forces[first]
    work = -0.5 * np.einsum("tai,tai->t", forces, moved)
    energies = evidence.frames["potential_energy"]
    gained = energies[last] - energies[first]
    slope = float(np.sum(gained * work)) / max(float(np.sum(work**2)), 1e-12)
    if abs(slope - 1) > WORK_TOLERANCE * max(1.0, spacing) ** 3 + 1 / len(first):
        message = f"the potential energy changes by {slope:.3g} times the work of the forces"
        found.error("work", message)
    left = np.abs(gained - work)
    usual = 1.4826 * float(np.median(left)) + 0.02 * float(np.std(work))
    message = "the potential energy does not change by the work in frame {frame}"
    found.above("work", left, WORK_OUTLIER * usual, message)


def _check_harmonic_motion(evidence: Evidence, found: Findings) -> None:
    """Each frame of a small stiff molecule follows from the one before by harmonic motion."""
    n_rigid = 5 if evidence.metadata.linear else 6
    n_modes = 3 * evidence.n_atoms - n_rigid
    if evidence.n_frames < 10 * n_modes or evidence.spacing_fs > HARMONIC_SPACING_FS:
        return
    modes = eigen_squares(evidence.static["hessian"], evidence.masses)[1][:, n_rigid:]
    turns = _turns_to_reference(evidence)
    roots = np.sqrt(np.repeat(evidence.masses, 3))
    coordinates, velocities, accelerations = (
        (np.einsum("tai,tij->taj", vectors, turns) - origin).reshape(evidence.n_frames, -1)
        * roots
        @ modes
        for vectors, origin in (
            (evidence.relative, evidence.reference),
            (evidence.velocities, 0.0),
            (evidence.accelerations, 0.0),
        )
    )
    known = evidence.evaluated
    centre, response = _harmonic_fit(coordinates[known], accelerations[known])
    squares, axes = np.linalg.eigh(response)
    frequencies = np.sqrt(np.maximum(squares, 0.0))
    moved, speeds = (coordinates - centre) @ axes, velocities @ axes
    thermal = BOLTZMANN_EV_PER_K * evidence.metadata.temperature_k * ACCELERATION
    energy = float(np.mean((moved * frequencies) ** 2)) / thermal
    if not HARMONIC_ENERGY[0] < energy < HARMONIC_ENERGY[1]:
        return
    phase = frequencies * evidence.spacing_fs
    sines = np.sinc(phase / np.pi) * evidence.spacing_fs
    rest = moved[1:] - moved[:-1] * np.cos(phase) - speeds[:-1] * sines
    size = np.sqrt(np.mean(np.sum((moved * frequencies) ** 2, axis=1)))
    shares = np.sqrt(np.sum((rest * frequencies) ** 2, axis=1)) / size
    usual, worst = float(np.sqrt(np.mean(shares**2))), int(shares.argmax())
    if usual > HARMONIC_USUAL or shares[worst] > HARMONIC_WORST:
        found.error(
            "motion",
            f"frames do not follow from each other by harmonic motion: {usual:.2g} of the "
            f"amplitude is left over, most ({shares[worst]:.2g}) from frame {worst} to the next",
        )
    by_speed = speeds[:-1] * sines * frequencies
    slope = 1 + float(np.sum(rest * frequencies * by_speed) / max(np.sum(by_speed**2), 1e-300))
    if abs(slope - 1) > HARMONIC_SLOPE:
        message = f"would have to be {slope:.3g} times as large for harmonic motion"
        found.error("velocities", f"{message}; from 1 it may be off by {HARMONIC_SLOPE:g}")


def _harmonic_fit(
    coordinates: np.ndarray, accelerations: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Rest point (n,) and symmetric response (n, n), 1/fs^2, that fit a = -response (q - rest)."""
    middle = coordinates.mean(axis=0)
    design = coordinates - middle
    slope = np.linalg.lstsq(design, accelerations - accelerations.mean(axis=0), rcond=None)[0]
    response = -0.5 * (slope + slope.T)
    return middle + np.linalg.pinv(response) @ accelerations.mean(axis=0), response


def _turns_to_reference(evidence: Evidence) -> np.ndarray:
    """(n_frames, 3, 3) rotations, rows times them, that lay each frame on the relaxed structure."""
    masses, reference = evidence.masses, evidence.reference
    overlap = np.einsum("a,tai,aj->tij", masses, evidence.relative, reference)
    if not evidence.metadata.linear:
        left, _, right = np.linalg.svd(overlap)
        left[:, :, 2] *= np.sign(np.linalg.det(left @ right))[:, None]
        return left @ right
    # About the axis of a linear molecule nothing is to be turned: the shortest way to lay it.
    axis = np.linalg.eigh(reference.T @ (masses[:, None] * reference))[1][:, 2]
    now = np.einsum("tij,j->ti", overlap, axis)
    now = now / np.linalg.norm(now, axis=1)[:, None]
    turn = np.cross(axis, now)
    skew = np.zeros((len(now), 3, 3))
    for k, (i, j) in enumerate(((1, 2), (2, 0), (0, 1))):
        skew[:, i, j], skew[:, j, i] = turn[:, k], -turn[:, k]
    return np.eye(3) - skew + skew @ skew / (1 + now @ axis)[:, None, None]
