"""Messages between pairs of atoms: how an atom's surroundings enter its lifted features."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from atom.config import ATOMConfig

# Gaussians in which a distance is written: from just below the shortest bond, a quarter of an
# angstrom wide and about as far apart, so that a vibration of 0.05 A is seen.
N_RADIAL = 24
SHORTEST_ANGSTROM = 0.8
WIDTH_ANGSTROM = 0.25
# Below this length, A or thermal velocities, a vector counts as zero: the norm keeps a finite
# gradient (zero at the origin).
NORM_SOFTENING = 1e-6


def safe_norm(vectors: Tensor) -> Tensor:
    """Length of vectors (..., 3) as (..., 1), with a finite gradient at zero length."""
    return (vectors.square().sum(-1, keepdim=True) + NORM_SOFTENING**2).sqrt()


class PairGeometry:
    """What all layers need to know of the pairs (i, j), once.

    Attributes:
        radial: (B, N, N, N_RADIAL) Gaussians of the distance.
        directions: (B, N, N, 3) unit vectors from i to j.
        relative_velocities: (B, N, N, 3), of j seen from i.
        envelope: (B, N, N, 1), falling to 0 at the cutoff; 0 for padding and for i = j.
    """

    def __init__(self, positions: Tensor, velocities: Tensor, real: Tensor, cutoff: float) -> None:
        """From positions (B, N, 3) A, velocities (B, N, 3) and real atoms (B, N)."""
        between = positions[:, None] - positions[:, :, None]
        distance = safe_norm(between)
        last = cutoff - WIDTH_ANGSTROM
        centres = torch.linspace(SHORTEST_ANGSTROM, last, N_RADIAL).to(distance)
        self.radial = torch.exp(-(((distance - centres) / WIDTH_ANGSTROM) ** 2))
        self.directions = between / distance
        self.relative_velocities = velocities[:, None] - velocities[:, :, None]
        itself = torch.eye(real.shape[1], dtype=torch.bool, device=real.device)
        near = real[:, :, None] & real[:, None] & ~itself & (distance[..., 0] < cutoff)
        envelope = 0.5 * (torch.cos(math.pi * distance / cutoff) + 1.0)
        self.envelope = envelope.where(near[..., None], 0.0)


class PairLayer(nn.Module):
    """One round of messages, exactly O(3)-equivariant, and blind to translations.

    With scalars h_i, vectors V_i and (m, a, b, c) = MLP(radial(r_ij), h_i, h_j) envelope(r_ij):
    V_i <- V_i + sum_j (a u_ij + b v_ij + c V_j), then with V' = W V_i, V'' = U V_i
    (h_i, V_i) <- (h_i, V_i) + (dh, g V'), (dh, g) = MLP(h_i + sum_j m, V' . V'', |V'|).

    References:
        Schuett et al., PaiNN, eqs. 7 to 10, arXiv:2102.03150.
    """

    def __init__(self, n_scalars: int, n_vectors: int) -> None:
        """Build the layer."""
        super().__init__()
        self.sizes = [n_scalars, n_vectors, n_vectors, n_vectors]
        self.radial = nn.Linear(N_RADIAL, n_scalars, bias=False)
        self.receiver = nn.Linear(n_scalars, n_scalars)
        self.sender = nn.Linear(n_scalars, n_scalars, bias=False)
        self.hidden = nn.Linear(n_scalars, n_scalars)
        self.message = nn.Linear(n_scalars, sum(self.sizes))
        self.mix_vectors = nn.Linear(n_vectors, 2 * n_vectors, bias=False)
        self.update_hidden = nn.Linear(n_scalars + 2 * n_vectors, n_scalars)
        self.update = nn.Linear(n_scalars, n_scalars + n_vectors)
        with torch.no_grad():
            # One or two of the Gaussians are not zero: without this, distances start out unseen.
            self.radial.weight.mul_(3.0)

    def forward(self, h: Tensor, vectors: Tensor, pairs: PairGeometry) -> tuple[Tensor, Tensor]:
        """Update scalars (B, N, s) and vectors (B, N, v, 3)."""
        edge = self.radial(pairs.radial) + self.receiver(h)[:, :, None] + self.sender(h)[:, None]
        weights = self.message(silu(self.hidden(silu(edge)))) * pairs.envelope
        message, toward, along, passed = weights.split(self.sizes, dim=-1)
        vectors = (
            vectors
            + toward.transpose(-1, -2) @ pairs.directions
            + along.transpose(-1, -2) @ pairs.relative_velocities
            + torch.einsum("bijv,bjvc->bivc", passed, vectors)
        )
        mixed = self.mix_vectors(vectors.transpose(-1, -2)).transpose(-1, -2)
        first, second = mixed.chunk(2, dim=-2)
        seen = [h + message.sum(2), (first * second).sum(-1), safe_norm(first)[..., 0]]
        change = self.update(silu(self.update_hidden(torch.cat(seen, dim=-1))))
        to_scalars, gate = change.split(self.sizes[:2], dim=-1)
        return h + to_scalars, vectors + gate[..., None] * first


class PairLifting(nn.Module):
    """d/4 scalars and d/4 vectors of an atom's surroundings, to be added to its Z.

    The paper lifts each atom by itself; attention then has to find bond lengths and angles from
    coordinates that turn with the molecule.
    """

    def __init__(self, config: ATOMConfig, n_inputs: int) -> None:
        """Build the layers; `n_inputs` scalars describe an atom."""
        super().__init__()
        self.n_vectors, hidden = config.multiplicity, 2 * config.multiplicity
        self.cutoff = config.pair_cutoff_angstrom
        self.embed = nn.Linear(n_inputs, hidden)
        self.layers = nn.ModuleList(
            PairLayer(hidden, self.n_vectors) for _ in range(config.pair_layers)
        )
        self.project = nn.Linear(hidden, config.multiplicity)

    def forward(
        self, positions: Tensor, velocities: Tensor, scalars: Tensor, real: Tensor
    ) -> Tensor:
        """Lift positions (B, N, 3) A, velocities (B, N, 3) and scalars (B, N, k) to (B, N, d)."""
        pairs = PairGeometry(positions, velocities, real, self.cutoff)
        h = self.embed(scalars)
        # The first vector of an atom is its velocity, the others start at zero.
        vectors = torch.cat(
            [velocities[..., None, :], velocities.new_zeros(*h.shape[:2], self.n_vectors - 1, 3)],
            dim=-2,
        )
        for layer in self.layers:
            h, vectors = layer(h, vectors, pairs)
        return torch.cat([self.project(h), vectors.flatten(-2)], dim=-1)
