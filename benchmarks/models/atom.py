"""ATOM as a model of the harness."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import nn

from atom import ATOM, PRESETS, ATOMConfig
from atom.checkpoint import stored_parameters
from benchmarks.models.learnt import Learnt, Preset, WindowLoss
from benchmarks.training.batches import MicroBatch
from benchmarks.training.trainer import LossFunction

WEIGHTS, SETTINGS = "atom.safetensors", "atom.json"
# How a preset trains where nothing else is asked for; docs/model/atom.md has the trials.
TRAINING: dict[str, dict[str, Any]] = {"mini": {"learning_rate": 5e-3, "lags_per_window": 3}}


class NoisyLoss(WindowLoss):
    """ATOM's own loss, with its label noise."""

    def mean(
        self, module: nn.Module, micro_batch: MicroBatch, scored: torch.Tensor
    ) -> torch.Tensor:
        """Mean error of the windows that count, scored (B, N) being their atoms."""
        assert isinstance(module, ATOM)
        batch = micro_batch.windows
        return module.training_loss(
            batch.positions, batch.velocities, batch.atomic_numbers, batch.lags_fs, batch.targets,
            score_mask=scored, noise=micro_batch.noise, kind=self.kind,
        )  # fmt: skip


class AtomJoint(Learnt[ATOM, ATOMConfig]):
    """ATOM whose steps attend to each other."""

    id: ClassVar[str] = "atom"
    weights_file: ClassVar[str] = WEIGHTS
    settings_file: ClassVar[str] = SETTINGS
    config_class: type[ATOMConfig] = ATOMConfig
    presets: ClassVar[dict[str, Preset]] = {
        name: Preset(model, TRAINING.get(name, {})) for name, model in PRESETS.items()
    }
    fixed: ClassVar[dict[str, Any]] = {"time_attention": "joint"}

    @classmethod
    def pretrained(cls, module: ATOM, **settings: Any) -> Self:
        """Make a model of the same shape whose training begins with the weights of another.

        Args:
            module: the pretrained model; it is not changed.
            **settings: as in `LearntSettings`, without `model`.
        """
        return cls(**settings, model=module.config.model_dump(mode="json")).begin_with(module)

    def build(self) -> ATOM:
        """A module with random weights."""
        return ATOM(self.config)

    def parameters_of(self, module: ATOM) -> dict[str, nn.Parameter]:
        """The parameters of a module under their names in a checkpoint."""
        return stored_parameters(module)

    def loss(self, atoms: str) -> LossFunction:
        """What training minimises, with label noise."""
        return NoisyLoss(atoms, self.training.loss)

    def write_weights(self, path: Path) -> None:
        """Write a checkpoint of ATOM, which holds its settings as well."""
        self.trained().save(path)

    def read_weights(self, path: Path) -> ATOM:
        """The module of a checkpoint of ATOM.

        Raises:
            CheckpointError: the file is damaged.
        """
        return ATOM.from_checkpoint(path)


class AtomStart(AtomJoint):
    """ATOM whose steps attend to the start state and themselves only."""

    id: ClassVar[str] = "atom-start"
    fixed: ClassVar[dict[str, Any]] = {"time_attention": "start"}


class AtomGat(AtomJoint):
    """ATOM with GATv2 message passing along bonds in place of attention over all atoms."""

    id: ClassVar[str] = "atom-gat"
    fixed: ClassVar[dict[str, Any]] = {"attention": "gat"}
