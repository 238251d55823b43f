"""Equivariant lifting of positions, velocities and elements, once per atom."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

from atom.config import ATOMConfig
from atom.elements import MAX_ATOMIC_NUMBER

# e3nn 0.4 loads its table of rotation matrices by torch.load, which since torch 2.6 admits
# tensors only; that table also holds slices. They are harmless, and are admitted during this
# import alone. e3nn 0.5 and later need nothing. The warnings are torch's about TorchScript, which
# e3nn compiles to.
with torch.serialization.safe_globals([slice]), warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from e3nn import o3

# Below this length, A or thermal velocities, a vector counts as zero: the norm keeps a finite
# gradient (zero at the origin).
NORM_SOFTENING = 1e-6


def safe_norm(vectors: Tensor) -> Tensor:
    """Length of vectors (..., 3) as (..., 1), with a finite gradient at zero length."""
    return (vectors.square().sum(-1, keepdim=True) + NORM_SOFTENING**2).sqrt()


class Lifting(nn.Module):
    """Lift the phase space of each atom to features of d/4 scalars (0e) and d/4 vectors (1o).

    Exactly O(3)-equivariant. In the output's last dimension the d/4 scalars come first, then
    the vectors as (x, y, z) triples.
    """

    def __init__(self, config: ATOMConfig) -> None:
        """Build the layers for a config."""
        super().__init__()
        m = config.multiplicity
        self.irreps = o3.Irreps(f"{m}x0e + {m}x1o")
        self.embedding = nn.Embedding(MAX_ATOMIC_NUMBER + 1, m, padding_idx=0)
        n_scalars = 1 + m + config.walk_steps
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about TorchScript, as above
            self.lift_positions = o3.Linear("1x0e + 1x1o", self.irreps, biases=True)
            self.lift_velocities = o3.Linear("1x0e + 1x1o", self.irreps, biases=True)
            self.lift_context = o3.Linear(f"{n_scalars}x0e + 1x1o", self.irreps, biases=True)
            self.couple = o3.FullyConnectedTensorProduct(self.irreps, self.irreps, self.irreps)

    def forward(
        self, positions: Tensor, velocities: Tensor, atomic_numbers: Tensor, walk: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Lift the start state.

        Args:
            positions: (B, N, 3), centred, in the config's unit of length.
            velocities: (B, N, 3), in thermal velocities.
            atomic_numbers: (B, N).
            walk: (B, N, K) random-walk encoding.

        Returns:
            lifted (B, 2, N, d): X and V; phase (B, N, d): Z.
        """
        speed = safe_norm(velocities)
        lifted_x = self.lift_positions(torch.cat([safe_norm(positions), positions], dim=-1))
        lifted_v = self.lift_velocities(torch.cat([speed, velocities], dim=-1))
        context = torch.cat([speed, self.embedding(atomic_numbers), walk, velocities], dim=-1)
        phase = self.couple(lifted_x, self.lift_context(context))
        return torch.stack([lifted_x, lifted_v], dim=1), phase
