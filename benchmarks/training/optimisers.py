"""Optimisers and the schedule of their learning rates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from benchmarks.training.settings import TrainingSettings


class StackedMuon(torch.optim.Muon):
    """Muon for matrices, and for stacks of them (K, A, B), each turned on its own.

    torch's Muon takes matrices only. A stack goes to it as K parameters that share its memory.
    """

    def __init__(self, weights: Sequence[nn.Parameter], **settings: Any) -> None:
        self.stacks = {
            weight: [nn.Parameter(matrix) for matrix in weight.detach()]
            for weight in weights
            if weight.ndim == 3
        }
        super().__init__(
            [matrix for weight in weights for matrix in self.stacks.get(weight, [weight])],
            **settings,
        )

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One step; the gradients are those of the stacks."""
        for weight, matrices in self.stacks.items():
            for i, matrix in enumerate(matrices):
                matrix.grad = None if weight.grad is None else weight.grad[i]
        return super().step(closure)


def make_optimizers(module: nn.Module, settings: TrainingSettings) -> list[torch.optim.Optimizer]:
    """AdamW for everything, or Muon for the matrices and AdamW for the rest.

    Matrices are weights of 2 axes, and of 3 as a stack. An embedding's rows are looked up one by
    one and so are no matrix: AdamW, without decay, which would pull elements that are never met in
    training to zero. The weights of equivariant layers are kept flat by e3nn and go to AdamW.

    References:
        Muon: Jordan et al. (2024), https://kellerjordan.github.io/posts/muon/.
    """
    embeddings = {
        parameter
        for part in module.modules()
        if isinstance(part, nn.Embedding)
        for parameter in part.parameters()
    }
    parameters = [p for p in module.parameters() if p.requires_grad]
    # Decay pulls matrices towards zero; gates, norms and biases have no reason to shrink.
    matrices = [p for p in parameters if p.ndim in (2, 3) and p not in embeddings]
    others = [p for p in parameters if p.ndim not in (2, 3) or p in embeddings]
    optimizers: list[torch.optim.Optimizer] = []
    groups: list[dict[str, Any]] = [{"params": others, "weight_decay": 0.0}]
    if settings.optimizer == "muon" and matrices:
        rate, decay = settings.muon_learning_rate, settings.weight_decay
        optimizers.append(StackedMuon(matrices, lr=rate, weight_decay=decay))
    else:
        groups.append({"params": matrices, "weight_decay": settings.weight_decay})
    groups = [group for group in groups if group["params"]]
    if groups:
        optimizers.append(torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak_rate"] = group["lr"]
    return optimizers


def schedule(fraction: float, settings: TrainingSettings) -> float:
    """Learning rate over its peak: linear warm-up, then a cosine down to the final fraction."""
    warmup = settings.warmup_fraction
    if fraction < warmup:
        # Not zero, so that the first step moves.
        return max(fraction / warmup, 0.01)
    done = (fraction - warmup) / (1 - warmup)
    low = settings.final_rate_fraction
    return low + (1 - low) * 0.5 * (1 + math.cos(math.pi * done))
