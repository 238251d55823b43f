"""EGNN applied again and again: the state predicted for one lag is the start of the next."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from benchmarks.models.edges import Edges
from benchmarks.models.egnn import Egnn, EGNNConfig, EGNNModule
from benchmarks.models.learnt import Preset


class EGNNRolloutConfig(EGNNConfig):
    """Settings of an EGNN that is rolled out."""

    # Without it, a rollout that errs feeds on its own errors until nothing is finite.
    longest_step_angstrom: float = Field(
        default=3.0, gt=0, description="bound of what an atom moves between two lags, A"
    )


class EGNNRolloutModule(EGNNModule):
    """Start states and lags in, positions out; exactly equivariant under E(3).

    Each step sees the time since the step before it in the place of the lag, and the vectors v
    behind the last layer are the velocities of the next step.
    """

    def __init__(self, config: EGNNRolloutConfig) -> None:
        super().__init__(config)
        self.longest_step = config.longest_step_angstrom

    def trajectory(
        self, x: Tensor, v: Tensor, atomic_numbers: Tensor, edges: Edges, lags_fs: Tensor
    ) -> Tensor:
        """Positions (B N, P, 3), each from those at the lag before it in time."""
        in_time, order = lags_fs.sort(dim=1)  # NaN comes last.
        waits = in_time.diff(dim=1, prepend=torch.zeros_like(in_time[:, :1]))
        size, steps = atomic_numbers.shape, []
        x, v = (a.flatten(0, 1)[:, None] for a in (x, v))
        for wait in waits.split(1, dim=1):
            h, before = self.features(v[:, 0].unflatten(0, size), atomic_numbers, wait), x
            for layer in self.layers:
                h, x, v = layer(h, x, v, edges)
            x = before + bounded(x - before, self.longest_step)
            v = bounded(v, self.longest_step)
            steps.append(x)
        as_asked = order.argsort(dim=1)[:, None, :, None].expand(-1, size[1], -1, 3)
        return torch.cat(steps, dim=1).gather(1, as_asked.flatten(0, 1))


def bounded(vectors: Tensor, longest: float) -> Tensor:
    """The vectors (..., 3), shortened to v / sqrt(1 + |v|^2 / longest^2)."""
    return vectors / (1 + vectors.square().sum(-1, keepdim=True) / longest**2).sqrt()


class EgnnRollout(Egnn):
    """EGNN rolled out, trained on all its steps together.

    References:
        Satorras, Hoogeboom and Welling, arXiv:2102.09844; rolled out, Xu et al., arXiv:2401.11037.
    """

    id: ClassVar[str] = "egnn-rollout"
    config_class: type[EGNNConfig] = EGNNRolloutConfig
    module_class: ClassVar[type[EGNNModule]] = EGNNRolloutModule
    presets: ClassVar[dict[str, Preset]] = Egnn.presets | {
        "mini": Preset(training={"learning_rate": 3e-3})
    }
