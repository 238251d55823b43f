"""Where twins start: near a stored frame, displaced, or with other hydrogen velocities."""

import numpy as np

from pipelines.dynamics.integrators import Body
from pipelines.dynamics.thermostats import thermal_velocities
from tg80.chemistry.mechanics import is_linear, remove_rigid_motion
from tg80.shards.fields import FIELDS
from tg80.shards.shard import stored_resolution


def perturbed_start(
    positions: np.ndarray,
    velocities: np.ndarray,
    body: Body,
    sigma: float,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """A start state near the stored one.

    Positions move by independent Gaussian displacements without net translation and rotation; the
    velocities stay, and so the total energy is known no better than the positions are. With
    sigma = 0 both move within the rounding of what is stored.

    Args:
        positions: (n_atoms, 3) float32 A, as stored.
        velocities: (n_atoms, 3) float32 A/fs, as stored.
        body: masses and degrees of freedom.
        sigma: standard deviation of each coordinate's displacement, A.
        rng: generator.

    Returns:
        positions and velocities, float64.
    """
    if sigma == 0:
        shape = positions.shape
        lost = [
            stored_resolution(FIELDS[name], values) * rng.uniform(-0.5, 0.5, shape)
            for name, values in (("positions", positions), ("velocities", velocities))
        ]
        return positions + lost[0], velocities + lost[1]
    start = positions.astype(np.float64)
    shift = rng.normal(scale=sigma, size=start.shape)
    shift = remove_rigid_motion(body.masses, start, shift, linear=body.linear)
    return start + shift, velocities.astype(np.float64)


def resampled_hydrogens(
    positions: np.ndarray,
    velocities: np.ndarray,
    atomic_numbers: np.ndarray,
    masses: np.ndarray,
    temperature_k: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """Velocities (n_atoms, 3) A/fs with those of the hydrogens drawn anew.

    The heavy atoms keep theirs, and total linear and angular momentum stay what they are: the
    hydrogens' velocities are Maxwell-Boltzmann under that condition. A single hydrogen is thereby
    fixed and keeps its own.
    """
    hydrogen = np.asarray(atomic_numbers) == 1
    if hydrogen.sum() < 2:
        return velocities.copy()
    mass, place = masses[hydrogen], positions[hydrogen]
    part = Body(mass, 0, linear=is_linear(mass, place))
    thermal = thermal_velocities(part, place, temperature_k, rng)
    own = velocities[hydrogen]
    internal = remove_rigid_motion(mass, place, own, linear=part.linear)
    drawn = velocities.copy()
    # Own rigid motion of the hydrogens, which the momenta fix, and thermal internal motion.
    drawn[hydrogen] = own - internal + thermal
    return drawn
