"""Rigid-body mechanics of an isolated molecule: momenta, degrees of freedom, projections.

The benchmark needs molecules that neither drift nor tumble, so net force and net torque (noise of
the integration grid) are taken out of the forces before they are integrated, and thermostats and
temperatures count 3N-6 degrees of freedom (3N-5 for linear molecules).

Everywhere: masses (n_atoms,) u; positions (n_atoms, 3) A; velocities (n_atoms, 3) A/fs; forces
(n_atoms, 3) eV/A; energies eV.
"""

import numpy as np

from tg80.constants import ACCELERATION, BOLTZMANN_EV_PER_K

# A molecule counts as linear if its smallest moment of inertia is below this share of its largest.
LINEAR_INERTIA_RATIO = 1e-3


def centre_of_mass(masses: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Centre of mass (3,), A."""
    return masses @ positions / masses.sum()


def inertia_tensor(masses: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Inertia tensor (3, 3) about the centre of mass, u A^2."""
    r = positions - centre_of_mass(masses, positions)
    weighted = masses[:, None] * r
    return np.eye(3) * np.sum(weighted * r) - weighted.T @ r


def is_linear(masses: np.ndarray, positions: np.ndarray) -> bool:
    """Whether the atoms lie on one line, told by the moments of inertia."""
    moments = np.linalg.eigvalsh(inertia_tensor(masses, positions))
    return bool(moments[0] < LINEAR_INERTIA_RATIO * moments[2])


def degrees_of_freedom(masses: np.ndarray, positions: np.ndarray) -> int:
    """Internal degrees of freedom: 3N-6, or 3N-5 if linear."""
    return 3 * len(masses) - (5 if is_linear(masses, positions) else 6)


def kinetic_energy(masses: np.ndarray, velocities: np.ndarray) -> float:
    """Kinetic energy, eV."""
    return float(0.5 * np.sum(masses[:, None] * velocities**2) / ACCELERATION)


def temperature(kinetic: float | np.ndarray, n_degrees: int) -> float | np.ndarray:
    """Kinetic temperature in K of a kinetic energy in eV over `n_degrees` degrees of freedom."""
    return 2.0 * kinetic / (n_degrees * BOLTZMANN_EV_PER_K)


def linear_momentum(masses: np.ndarray, velocities: np.ndarray) -> np.ndarray:
    """Total momentum (3,), u A/fs."""
    return masses @ velocities


def angular_momentum(
    masses: np.ndarray, positions: np.ndarray, velocities: np.ndarray
) -> np.ndarray:
    """Angular momentum (3,) about the centre of mass, u A^2/fs."""
    r = positions - centre_of_mass(masses, positions)
    return np.sum(np.cross(r, masses[:, None] * velocities), axis=0)


def _inverse_inertia(masses: np.ndarray, positions: np.ndarray, linear: bool) -> np.ndarray:
    """Inverse (3, 3) of the inertia tensor; the axis of a linear molecule is left out.

    A linear molecule bends a little as it vibrates. Its axis has next to no inertia then, and a
    rotation about it is not a rotation but the bending itself.
    """
    moments, axes = np.linalg.eigh(inertia_tensor(masses, positions))
    keep = slice(1, None) if linear else slice(None)
    return (axes[:, keep] / moments[keep]) @ axes[:, keep].T


def remove_rigid_motion(
    masses: np.ndarray, positions: np.ndarray, velocities: np.ndarray, *, linear: bool
) -> np.ndarray:
    """Velocities (n_atoms, 3) without overall translation and rotation.

    This is the orthogonal projection in mass-weighted coordinates: it takes away exactly the
    kinetic energy of the rigid motion.
    """
    r = positions - centre_of_mass(masses, positions)
    internal = velocities - linear_momentum(masses, velocities) / masses.sum()
    angular = np.sum(np.cross(r, masses[:, None] * internal), axis=0)
    omega = _inverse_inertia(masses, positions, linear) @ angular
    return internal - np.cross(omega, r)


def project_forces(
    masses: np.ndarray, positions: np.ndarray, forces: np.ndarray, *, linear: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Forces without net force and net torque, and the two that were taken out.

    The mass-weighted projection changes accelerations only by a rigid-body acceleration, so the
    internal dynamics stay what they were.

    Returns:
        projected (n_atoms, 3) eV/A, net force (3,) eV/A, net torque about the centre of mass
        (3,) eV.
    """
    r = positions - centre_of_mass(masses, positions)
    net_force = forces.sum(axis=0)
    net_torque = np.sum(np.cross(r, forces), axis=0)
    alpha = _inverse_inertia(masses, positions, linear) @ net_torque
    rigid = masses[:, None] * (net_force / masses.sum() + np.cross(alpha, r))
    return forces - rigid, net_force, net_torque
