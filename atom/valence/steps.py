"""Motion by valence terms in small steps of time: anharmonic, and not differentiated."""

from __future__ import annotations

import torch
from torch import Tensor

from atom.elements import U_ANGSTROM2_PER_FS2_IN_EV
from atom.valence.terms import Parameters, energy_and_forces
from atom.valence.topology import Topology

# Of velocity Verlet, fs. At half of it skills in validation were no better.
_STEP_FS = 1.0


@torch.no_grad()
def integrate(
    positions: Tensor,
    velocities: Tensor,
    lags_fs: Tensor,
    masses: Tensor,
    topology: Topology,
    parameters: Parameters,
) -> Tensor:
    """Positions (B, P, N, 3) A by velocity Verlet, float64; not finite where a molecule flew apart.

    Args:
        positions: (B, N, 3) A.
        velocities: (B, N, 3) A/fs.
        lags_fs: (B, P).
        masses: (B, N) u, 0 = padding, which stands last.
        topology: of all B molecules, one after another.
        parameters: of its terms.
    """
    real = (masses > 0)[..., None]
    unit = 1 / (U_ANGSTROM2_PER_FS2_IN_EV * masses[masses > 0][:, None])
    lags = lags_fs.double()
    # Lags are float32: what is nearly a multiple of the step is one.
    step_of = torch.floor(lags / _STEP_FS + 1e-4).long()
    rest = (lags - step_of * _STEP_FS).clamp(min=0)[..., None, None]
    found = positions.double()[:, None].repeat(1, lags.shape[1], 1, 1)

    def accelerations(x: Tensor) -> Tensor:
        _, forces = energy_and_forces(x[real[..., 0]], topology, parameters)
        return torch.zeros_like(x).masked_scatter(real, forces * unit)

    x = torch.where(real, positions.double(), 0.0)
    v = torch.where(real, velocities.double(), 0.0)
    a = accelerations(x)
    for step in range(int(step_of.max()) + 1):
        if step:
            v = v + _STEP_FS / 2 * a
            x = x + _STEP_FS * v
            a = accelerations(x)
            v = v + _STEP_FS / 2 * a
        here = step_of == step
        if bool(here.any()):
            after = x[:, None] + rest * v[:, None] + rest**2 / 2 * a[:, None]
            found = torch.where(here[..., None, None], after, found)
    return found
