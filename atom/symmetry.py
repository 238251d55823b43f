"""How far a model is from the symmetries of mechanics, end to end and layer by layer.

Rotations and reflections are measured by Monte Carlo over the Haar measure; translations and
permutations of atoms are exact symmetries, where anything beyond rounding is a fault.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from atom.layers.channels import deal_channels
from atom.model import ATOM

Operator = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]

# Positions and shifts on this grid, A, add without rounding in float32 as long as they stay
# below 128 A: then what is left over is the model's own doing.
SHIFT_GRID = 2.0**-16


class EquivarianceError(NamedTuple):
    """Root mean squares over atoms, and over steps where there are any.

    Attributes:
        paper: E_x || mean_m f(g_m x) - mean_m g_m f(x) ||, the same g_m in both means. Both
            averages nearly vanish, so a small value alone proves little.
        point: sqrt(E || f(g x) - g f(x) ||^2).
        scale: sqrt(E || f(x) ||^2), to compare the others with. All in A for positions, without
            unit for features.
    """

    paper: float
    point: float
    scale: float

    @property
    def relative(self) -> float:
        """The pointwise error over the size of what it is an error of."""
        return self.point / self.scale if self.scale > 0 else 0.0


def random_rotations(
    n_rotations: int,
    *,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Proper rotation matrices (n_rotations, 3, 3) from the uniform (Haar) measure.

    A normalised Gaussian 4-vector is a uniform unit quaternion.

    References:
        Shoemake, Uniform random rotations, Graphics Gems III (1992),
        doi:10.1016/B978-0-08-050755-2.50036-1.
    """
    quaternions = torch.randn(n_rotations, 4, generator=generator, dtype=torch.float64)
    quaternions = quaternions / quaternions.norm(dim=-1, keepdim=True)
    w, axis = quaternions[:, 0, None, None], quaternions[:, 1:]
    x, y, z = axis.unbind(-1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).view(-1, 3, 3)
    identity = torch.eye(3, dtype=torch.float64)
    return (identity + 2 * w * cross + 2 * cross @ cross).to(dtype)


def quasi_equivariance(
    operator: Operator,
    positions: Tensor,
    velocities: Tensor,
    atomic_numbers: Tensor,
    lags_fs: Tensor,
    *,
    n_rotations: int = 32,
    improper: bool = False,
    generator: torch.Generator | None = None,
) -> EquivarianceError:
    """Measure both errors of the predicted positions on a batch of start states.

    Args:
        operator: f, called as an ATOM model is.
        positions: (B, N, 3), A; turned about the origin.
        velocities: (B, N, 3), A/fs.
        atomic_numbers: (B, N), 0 = padding.
        lags_fs: (B, P) without NaN.
        n_rotations: number M of rotations, the same for all samples.
        improper: reflect as well: every rotation is followed by the inversion of space.
        generator: of the rotations, on the CPU.
    """

    def evaluate(rotation: Tensor) -> dict[str, Tensor]:
        turned = (positions @ rotation.T, velocities @ rotation.T)
        return {"output": operator(*turned, atomic_numbers, lags_fs)}

    matrices = _matrices(n_rotations, improper, generator, positions)
    return _monte_carlo(evaluate, matrices, {"output": _turn_vectors}, atomic_numbers)["output"]


def layer_equivariance(
    model: ATOM,
    positions: Tensor,
    velocities: Tensor,
    atomic_numbers: Tensor,
    lags_fs: Tensor,
    *,
    n_rotations: int = 32,
    improper: bool = False,
    generator: torch.Generator | None = None,
) -> dict[str, EquivarianceError]:
    """Measure both errors of the features behind each layer, as functions of the input.

    Scalar channels should stay as they are and vector channels turn along; `X`, `V` and `Z` are
    what the lifting gives, `block k` is Z behind block k.

    Args:
        model: the model whose layers are measured.
        positions: as in :func:`quasi_equivariance`.
        velocities: as in :func:`quasi_equivariance`.
        atomic_numbers: as in :func:`quasi_equivariance`.
        lags_fs: as in :func:`quasi_equivariance`.
        n_rotations: as in :func:`quasi_equivariance`.
        improper: as in :func:`quasi_equivariance`.
        generator: as in :func:`quasi_equivariance`.

    Returns:
        Errors by name, in the order of the layers.
    """
    actions = {name: _turn_channels(x) for name, x in _vector_channels(model).items()}

    def evaluate(rotation: Tensor) -> dict[str, Tensor]:
        with _recorded(model) as features:
            model(positions @ rotation.T, velocities @ rotation.T, atomic_numbers, lags_fs)
        return features

    matrices = _matrices(n_rotations, improper, generator, positions)
    return _monte_carlo(evaluate, matrices, actions, atomic_numbers)


@torch.no_grad()
def translation_error(
    operator: Operator,
    positions: Tensor,
    velocities: Tensor,
    atomic_numbers: Tensor,
    lags_fs: Tensor,
    *,
    shift: tuple[float, float, float] = (17.0, -29.0, 41.0),
) -> float:
    """Largest | f(x + s) - s - f(x) | over steps, real atoms and coordinates, A.

    Args:
        operator: predicts positions from the four tensors that follow.
        positions: (B, N, 3) A.
        velocities: (B, N, 3) A/fs.
        atomic_numbers: (B, N), 0 = padding.
        lags_fs: (B, P) fs.
        shift: s, A; it and the positions are rounded to a grid on which they add exactly.
    """
    real = (atomic_numbers > 0)[..., None]
    step = positions.new_tensor(shift).div(SHIFT_GRID).round() * SHIFT_GRID
    still = positions.div(SHIFT_GRID).round() * SHIFT_GRID
    moved = torch.where(real, still + step, still)
    first = operator(still, velocities, atomic_numbers, lags_fs)
    second = operator(moved, velocities, atomic_numbers, lags_fs)
    # In float64, because the difference of two rounded positions is not the model's either.
    difference = second.double() - step.double() - first.double()
    return _largest(difference, real)


@torch.no_grad()
def permutation_error(
    operator: Operator,
    positions: Tensor,
    velocities: Tensor,
    atomic_numbers: Tensor,
    lags_fs: Tensor,
    order: Tensor,
    *,
    permuted: Operator | None = None,
) -> float:
    """Largest | f(P x) - P f(x) | over steps, real atoms and coordinates, A.

    Args:
        operator: predicts positions from the four tensors that follow.
        positions: (B, N, 3) A.
        velocities: (B, N, 3) A/fs.
        atomic_numbers: (B, N), 0 = padding.
        lags_fs: (B, P) fs.
        order: (B, N), the atom at each place of the permuted sample; padding stays.
        permuted: predicts the permuted samples if `operator` cannot: a model that remembers
            structures must have learned them in the other order.
    """
    index = order[..., None].expand_as(positions)
    first = operator(positions, velocities, atomic_numbers, lags_fs)
    second = (permuted or operator)(
        positions.gather(1, index), velocities.gather(1, index), atomic_numbers.gather(1, order),
        lags_fs,
    )  # fmt: skip
    expected = first.gather(2, index[:, None].expand_as(first))
    return _largest(second.double() - expected.double(), (atomic_numbers > 0)[..., None])


def random_orders(atomic_numbers: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """A random order of each sample's real atoms, (B, N), padding left at the end.

    Args:
        atomic_numbers: (B, N), 0 = padding, behind the real atoms.
        generator: random numbers; torch's global generator if None.
    """
    keys = torch.rand(atomic_numbers.shape, generator=generator)
    padding = (atomic_numbers == 0).cpu()
    last = 1.0 + torch.arange(atomic_numbers.shape[1])
    return torch.where(padding, last, keys).argsort(dim=1).to(atomic_numbers.device)


def _largest(difference: Tensor, real: Tensor) -> float:
    return float(difference.abs().where(real[:, None], 0.0).max())


def _matrices(
    n_rotations: int, improper: bool, generator: torch.Generator | None, like: Tensor
) -> Tensor:
    rotations = random_rotations(n_rotations, generator=generator, dtype=like.dtype)
    return (-rotations if improper else rotations).to(like.device)


@torch.no_grad()
def _monte_carlo(
    evaluate: Callable[[Tensor], Mapping[str, Tensor]],
    matrices: Tensor,
    actions: Mapping[str, Callable[[Tensor, Tensor], Tensor]],
    atomic_numbers: Tensor,
) -> dict[str, EquivarianceError]:
    """Both errors of all that `evaluate(g)` finds at the input turned by g.

    Args:
        evaluate: from a rotation to the quantities of the rotated input.
        matrices: (M, 3, 3) rotations.
        actions: how each quantity (B, ..., N, channels) should rotate.
        atomic_numbers: (B, N), 0 = padding.
    """
    still = {name: x.clone() for name, x in evaluate(torch.eye(3).to(matrices)).items()}
    weights = {name: _weights(x, atomic_numbers) for name, x in still.items()}
    mean_difference = {name: torch.zeros_like(x) for name, x in still.items()}
    square = dict.fromkeys(still, 0.0)
    # One rotation after another: the batch is the caller's, and a batch M times as large may
    # not fit.
    for matrix in matrices:
        for name, turned in evaluate(matrix).items():
            difference = turned - actions[name](still[name], matrix)
            mean_difference[name] += difference / len(matrices)
            mean = _mean_square(difference, weights[name]).mean()
            square[name] += float(mean) / len(matrices)
    return {
        name: EquivarianceError(
            paper=float(_mean_square(mean_difference[name], weights[name]).sqrt().mean()),
            point=square[name] ** 0.5,
            scale=float(_mean_square(still[name], weights[name]).mean().sqrt()),
        )
        for name in actions
    }


def _weights(quantity: Tensor, atomic_numbers: Tensor) -> Tensor:
    """Equal weights (B, 1 .. 1, N, 1) of the real atoms (and steps), each sample's sum being 1."""
    real = (atomic_numbers > 0).to(quantity)
    shape = (len(real), *[1] * (quantity.ndim - 3), real.shape[1], 1)
    n_steps = quantity.shape[1:-2].numel()
    return (real / (real.sum(1, keepdim=True).clamp(min=1) * n_steps)).view(shape)


def _mean_square(quantity: Tensor, weights: Tensor) -> Tensor:
    """(B,) squared norm over the channels, averaged over atoms and steps."""
    return (weights * quantity.square()).flatten(1).sum(1)


def _turn_vectors(positions: Tensor, matrix: Tensor) -> Tensor:
    return positions @ matrix.T


def _turn_channels(vectors: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """The action on features: the channels (m, 3) of the vectors turn, scalars stay."""

    def act(features: Tensor, matrix: Tensor) -> Tensor:
        turned = features.clone()
        turned[..., vectors] = features[..., vectors] @ matrix.T.to(features.dtype)
        return turned

    return act


def _vector_channels(model: ATOM) -> dict[str, Tensor]:
    """Layers whose features are measured, and the channels (m, 3) of their vectors."""
    config = model.config
    lifted = config.multiplicity + torch.arange(3 * config.multiplicity).view(-1, 3)
    inside = config.block_multiplicity + torch.arange(3 * config.block_multiplicity).view(-1, 3)
    if config.symmetry == "quasi":
        inside = deal_channels(torch.arange(config.width), config.n_heads).argsort()[lifted]
    behind = {f"block {i + 1}": inside for i in range(config.n_blocks)}
    return {"X": lifted, "V": lifted, "Z": lifted, **behind}


@contextmanager
def _recorded(model: ATOM) -> Iterator[dict[str, Tensor]]:
    """The features of every layer, filled by the forward passes inside."""
    features: dict[str, Tensor] = {}

    def keep_lifted(_module: nn.Module, _inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
        lifted, phase = output
        features.update(X=lifted[:, 0], V=lifted[:, 1], Z=phase)

    def keep_block(name: str):
        def keep(_module: nn.Module, _inputs: tuple, output: tuple) -> None:
            features[name] = output[0]

        return keep

    handles = [model.lifting.register_forward_hook(keep_lifted)]
    handles += [
        block.register_forward_hook(keep_block(f"block {i + 1}"))
        for i, block in enumerate(model.decoder.blocks)
    ]
    try:
        yield features
    finally:
        for handle in handles:
            handle.remove()
