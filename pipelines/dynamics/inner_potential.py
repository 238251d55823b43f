"""The inner potential of r-RESPA: GFN2-xTB with a kernel correction learned from the level.

The correction is an energy: a rational quadratic kernel, 1 / (1 + d^2 / 2 w^2), on the inverse
distances of all pairs of atoms, summed over the feasible permutations of like atoms, so that a
frame teaches as much as all its images. Its coefficients follow in closed form from difference
forces, level minus GFN2-xTB. It decides only how the level's force is divided between inner and
outer steps: the energy conserved stays the level's.

The kernel must be smooth to all orders. The force of a Matern-5/2 kernel has kinks in its second
derivative; they fit as well, but the difference to the level's force then holds high frequencies,
which resonate with the outer steps.

References:
    Chmiela et al., Sci. Adv. 3, e1603015 (2017), doi:10.1126/sciadv.1603015, and with symmetries
    Nat. Commun. 9, 3887 (2018), doi:10.1038/s41467-018-06169-2.
"""

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import scipy.linalg
from numba import njit

from pipelines.engines.engine import Engine, Evaluation
from pipelines.engines.threads import ThreadLimit
from tg80.errors import RunFailed

# Of the kernel, 1/A, in the space of all inverse distances. From 1 to 2 it matters little; narrower
# ones are better for rigid molecules, wider ones where hydroxyl and methyl groups turn.
WIDTH = 1.5
KERNEL = f"rational quadratic {WIDTH}"  # in checkpoints
RIDGE = 1e-8  # beside the mean diagonal of the kernel matrix
LEAST_FRAMES = 10
MOST_UNKNOWNS = 7000  # of the linear equations: 0.4 GB, and some 10 s on one core
STRETCH_A = 0.12  # how far a hydrogen is moved along its bond, at most


class FitFailed(RunFailed):
    """No correction could be fitted; the message says why."""


@dataclass(frozen=True)
class KernelCorrection:
    """A fitted correction: sum over frames k and permutations P of w_k . grad k(P q, q_k).

    Attributes:
        centres: (n_frames, n_pairs) inverse distances q_k of the frames fitted, 1/A.
        weights: (n_frames, n_pairs) coefficients w_k, eV/A.
        permutations: (n_permutations, n_atoms), a group.
    """

    centres: np.ndarray
    weights: np.ndarray
    permutations: np.ndarray

    @cached_property
    def _offsets(self) -> np.ndarray:
        return np.einsum("kd,kd->k", self.centres, self.weights)

    @cached_property
    def _images(self) -> np.ndarray:
        return _pair_permutations(self.permutations)

    def energy_and_forces(self, positions: np.ndarray) -> tuple[float, np.ndarray]:
        """Energy (eV) and forces (n_atoms, 3) eV/A at positions (n_atoms, 3) A."""
        forces = np.zeros_like(positions)
        energy = _evaluate(
            positions, self._images, self.centres, self.weights, self._offsets, forces
        )
        return energy, forces

    @property
    def sha256(self) -> str:
        """Hash of all that decides its forces."""
        arrays = self.centres, self.weights, self.permutations.astype(np.int64)
        return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()


class CorrectedEngine:
    """An engine with a correction added to its energy and forces; without one, the bare engine."""

    def __init__(self, engine: Engine, correction: KernelCorrection | None = None):
        self.engine = engine
        self.correction = correction
        self.level = engine.level

    def evaluate(self, positions: np.ndarray) -> Evaluation:
        """Energy and forces at positions (n_atoms, 3) A.

        Raises:
            RunFailed: the engine failed.
        """
        found = self.engine.evaluate(positions)
        if self.correction is None:
            return found
        energy, forces = self.correction.energy_and_forces(positions)
        return replace(found, energy=found.energy + energy, forces=found.forces + forces)

    def state(self) -> dict[str, np.ndarray]:
        return self.engine.state()

    def load_state(self, state: dict[str, np.ndarray]) -> None:
        self.engine.load_state(state)

    def reset(self) -> None:
        self.engine.reset()


def most_frames(n_atoms: int) -> int:
    """Frames that one fit takes at most."""
    return max(LEAST_FRAMES, MOST_UNKNOWNS // _n_internal(n_atoms))


def no_permutations(n_atoms: int) -> np.ndarray:
    """The group of the identity alone."""
    return np.arange(n_atoms)[None]


def fit_correction(
    positions: np.ndarray, forces: np.ndarray, permutations: np.ndarray
) -> KernelCorrection:
    """The correction whose forces are the ones given, on one thread.

    Args:
        positions: (n_frames, n_atoms, 3) A; of more than `most_frames`, those that lie far apart
            are fitted.
        forces: (n_frames, n_atoms, 3) eV/A, without net force and net torque.
        permutations: (n_permutations, n_atoms), a group, that the energy does not feel.

    Raises:
        FitFailed: there are too few frames, or the equations have no stable solution.
    """
    n_frames = len(positions)
    if n_frames < LEAST_FRAMES:
        raise FitFailed(f"{n_frames} frames are too few for a fit")
    if not (np.isfinite(positions).all() and np.isfinite(forces).all()):
        raise FitFailed("positions or forces are not finite")
    chosen = choose_frames(positions, most_frames(positions.shape[1]), permutations)
    positions, forces, n_frames = positions[chosen], forces[chosen], len(chosen)
    with ThreadLimit(1):
        frames = [_internal_motion(frame) for frame in positions]
        centres = np.array([frame[0] for frame in frames])
        slopes = np.array([frame[1] for frame in frames])  # (n_frames, n_pairs, n_internal)
        target = np.array(
            [-motion @ force.ravel() for (_, _, motion), force in zip(frames, forces, strict=True)]
        )
        matrix = _kernel_matrix(centres, slopes, _pair_permutations(permutations))
        diagonal = matrix.diagonal().mean()
        matrix[np.diag_indices(len(matrix))] += RIDGE * diagonal
        try:
            factor = scipy.linalg.cho_factor(
                matrix, lower=True, overwrite_a=True, check_finite=False
            )
        except scipy.linalg.LinAlgError as error:
            raise FitFailed(f"the equations of {n_frames} frames are singular: {error}") from None
        solution = scipy.linalg.cho_solve(factor, target.ravel(), check_finite=False)
        weights = np.einsum("kdm,km->kd", slopes, solution.reshape(n_frames, -1))
    if not np.isfinite(weights).all():
        raise FitFailed(f"the equations of {n_frames} frames have no finite solution")
    return KernelCorrection(centres, weights, permutations)


def largest_correction(
    positions: np.ndarray, permutations: np.ndarray, rng: np.random.Generator
) -> KernelCorrection:
    """A correction of zero that costs what the largest does, fit and all, to time these.

    Args:
        positions: (n_atoms, 3) A, about which its frames lie.
        permutations: (n_permutations, n_atoms), as `fit_correction` takes them.
        rng: draws the frames.
    """
    shape = (most_frames(len(positions)), *positions.shape)
    moved = positions + 0.05 * rng.normal(size=shape)
    return fit_correction(moved, np.zeros(shape), permutations)


def choose_frames(positions: np.ndarray, n: int, permutations: np.ndarray) -> np.ndarray:
    """Indices, in order, of at most `n` frames that lie far apart: farthest-point sampling.

    Args:
        positions: (n_frames, n_atoms, 3) A; the first frame is always chosen.
        n: how many.
        permutations: (n_permutations, n_atoms) that a distance is the smallest over.
    """
    if len(positions) <= n:
        return np.arange(len(positions))
    points = np.array([_inverse_distances(frame)[0] for frame in positions])
    images = _pair_permutations(permutations)
    squares = (points**2).sum(axis=1)
    chosen = [0]
    distance = np.full(len(points), np.inf)
    while len(chosen) < n:
        last = chosen[-1]
        overlap = (points @ points[last][images].T).max(axis=1)
        distance = np.minimum(distance, squares + squares[last] - 2.0 * overlap)
        distance[last] = -np.inf
        chosen.append(int(distance.argmax()))
    return np.sort(chosen)


def stretch_hydrogens(
    positions: np.ndarray, atomic_numbers: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """The frame (n_atoms, 3) A with each bond to hydrogen longer or shorter at random.

    The forces along these bonds oscillate fastest: what the fit misses of them resonates first.
    """
    moved = positions.copy()
    hydrogens = np.flatnonzero(np.asarray(atomic_numbers) == 1)
    others = np.flatnonzero(np.asarray(atomic_numbers) != 1)
    for hydrogen in hydrogens if len(others) else ():
        bonds = positions[hydrogen] - positions[others]
        lengths = np.linalg.norm(bonds, axis=1)
        bond = bonds[lengths.argmin()] / lengths.min()
        moved[hydrogen] += rng.uniform(-STRETCH_A, STRETCH_A) * bond
    return moved


def _n_internal(n_atoms: int) -> int:
    return max(1, 3 * n_atoms - 6)


def _inverse_distances(positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Inverse distances (n_pairs,) 1/A, and their gradients (n_pairs, 3) in the first atoms."""
    i, j = np.triu_indices(len(positions), 1)
    apart = positions[i] - positions[j]
    inverse = 1.0 / np.linalg.norm(apart, axis=1)
    return inverse, -(inverse**3)[:, None] * apart


def _internal_motion(positions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Inverse distances, their slopes along unit vectors of internal motion, and these vectors.

    These are six unknowns a frame fewer than in Cartesian coordinates, with the same solution.

    Returns:
        (n_pairs,) 1/A, (n_pairs, n_internal) 1/A^2 and (n_internal, 3 n_atoms).
    """
    inverse, gradient = _inverse_distances(positions)
    n_atoms = len(positions)
    i, j = np.triu_indices(n_atoms, 1)
    jacobian = np.zeros((len(inverse), n_atoms, 3))
    pair = np.arange(len(inverse))
    jacobian[pair, i] = gradient
    jacobian[pair, j] = -gradient
    left, sizes, right = scipy.linalg.svd(jacobian.reshape(len(inverse), -1), full_matrices=False)
    n = _n_internal(n_atoms)
    return inverse, left[:, :n] * sizes[:n], right[:n]


def _pair_permutations(permutations: np.ndarray) -> np.ndarray:
    """(n_permutations, n_pairs): q[row] are the inverse distances of the permuted atoms."""
    n_atoms = permutations.shape[1]
    i, j = np.triu_indices(n_atoms, 1)
    pair = np.zeros((n_atoms, n_atoms), dtype=np.intp)
    pair[i, j] = pair[j, i] = np.arange(len(i))
    return pair[permutations[:, i], permutations[:, j]]


def _kernel_matrix(centres: np.ndarray, slopes: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Lower half of the second derivatives of the kernel between all frames, for LAPACK."""
    n_frames, n_pairs, n = slopes.shape
    matrix = np.zeros((n_frames * n, n_frames * n), order="F")
    columns = np.ascontiguousarray(slopes.transpose(1, 0, 2)).reshape(n_pairs, -1)
    for frame in range(n_frames):
        n_columns = (frame + 1) * n
        before = slopes[: frame + 1]
        block = np.zeros((n, n_columns))
        for image in images:
            slope = slopes[frame][image]
            apart = centres[frame][image] - centres[: frame + 1]
            decay = 1.0 / (1.0 + (apart**2).sum(axis=1) / (2.0 * WIDTH**2))
            here = apart @ slope * (2.0 / WIDTH**4 * decay**3)[:, None]
            there = np.matmul(apart[:, None], before).ravel()
            part = slope.T @ columns[:, :n_columns]
            part *= np.repeat(decay**2 / WIDTH**2, n)
            part -= np.repeat(here.T, n, axis=1) * there
            block += part
        matrix[frame * n : (frame + 1) * n, :n_columns] = block
    return matrix


@njit(cache=True, nogil=True, fastmath=True)
def _evaluate(positions, images, centres, weights, offsets, forces):
    """Energy (eV); the forces (n_atoms, 3) eV/A are added to `forces`."""
    n_atoms = len(positions)
    n_frames, n_pairs = centres.shape
    inverse = np.empty(n_pairs)
    pair = 0
    for i in range(n_atoms):
        for j in range(i + 1, n_atoms):
            square = 0.0
            for axis in range(3):
                square += (positions[i, axis] - positions[j, axis]) ** 2
            inverse[pair] = 1.0 / np.sqrt(square)
            pair += 1
    slope = np.zeros(n_pairs)
    energy = 0.0
    for image in images:
        here = inverse[image]
        there = np.zeros(n_pairs)
        for frame in range(n_frames):
            square = 0.0
            along = -offsets[frame]
            for pair in range(n_pairs):
                apart = here[pair] - centres[frame, pair]
                square += apart * apart
                along += weights[frame, pair] * here[pair]
            decay = 1.0 / (1.0 + square / (2.0 * WIDTH**2))
            scale = decay**2 / WIDTH**2
            energy += scale * along
            pull = 2.0 / WIDTH**4 * decay**3 * along
            for pair in range(n_pairs):
                apart = here[pair] - centres[frame, pair]
                there[pair] += scale * weights[frame, pair] - pull * apart
        for pair in range(n_pairs):
            slope[image[pair]] += there[pair]
    pair = 0
    for i in range(n_atoms):
        for j in range(i + 1, n_atoms):
            # d(1/r)/dx_i = -(x_i - x_j)/r^3, and the force is minus the gradient.
            strength = slope[pair] * inverse[pair] ** 3
            for axis in range(3):
                push = strength * (positions[i, axis] - positions[j, axis])
                forces[i, axis] += push
                forces[j, axis] -= push
            pair += 1
    return energy
