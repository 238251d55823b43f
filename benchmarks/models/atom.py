"""ATOM as a model of the harness."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from pydantic import Field
from torch import nn

from atom import ATOM, PRESETS, ATOMConfig
from atom.checkpoint import stored_parameters
from benchmarks.models.learnt import Learnt, LearntSettings, Preset, WindowLoss
from benchmarks.training.batches import MicroBatch
from benchmarks.training.trainer import LossFunction
from tg80.errors import UserError

WEIGHTS, SETTINGS = "atom.safetensors", "atom.json"
# How a preset trains where nothing else is asked for; docs/model/atom.md has the trials.
TRAINING: dict[str, dict[str, Any]] = {"mini": {"learning_rate": 5e-3, "lags_per_window": 3}}


class AtomSettings(LearntSettings):
    """Settings of an ATOM run."""

    pretrained: str | None = Field(None, description="sha256 of the weights training begins with")


def sha256_of(weights: Mapping[str, torch.Tensor]) -> str:
    """One hash for the weights of a model."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode() + weights[name].contiguous().numpy().tobytes())
    return digest.hexdigest()


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
    settings_class: ClassVar[type[LearntSettings]] = AtomSettings
    config_class: type[ATOMConfig] = ATOMConfig
    presets: ClassVar[dict[str, Preset]] = {
        name: Preset(model, TRAINING.get(name, {})) for name, model in PRESETS.items()
    }
    fixed: ClassVar[dict[str, Any]] = {"time_attention": "joint"}

    def __init__(self, **settings: Any) -> None:
        """Make a model to be trained; settings as in `AtomSettings`."""
        super().__init__(**settings)
        self.pretrained_sha256: str | None = settings.get("pretrained")
        self.begin: dict[str, torch.Tensor] | None = None

    @classmethod
    def pretrained(cls, module: ATOM, **settings: Any) -> Self:
        """Make a model of the same shape whose training begins with the weights of another.

        Args:
            module: the pretrained model; it is not changed.
            **settings: as in `AtomSettings`, without `model`.
        """
        weights = {n: p.detach().cpu().clone() for n, p in stored_parameters(module).items()}
        shape = {"model": module.config.model_dump(mode="json")}
        model = cls(**settings, **shape, pretrained=sha256_of(weights))
        model.begin = weights
        return model

    def settings(self) -> dict[str, Any]:
        """The resolved settings, and the weights it began with if given."""
        begin = self.pretrained_sha256
        return super().settings() | ({} if begin is None else {"pretrained": begin})

    def identity(self) -> dict[str, Any]:
        """The model's settings, and the weights it began with."""
        return super().identity() | {"pretrained": self.pretrained_sha256}

    def build(self) -> ATOM:
        """A module with random weights, or those that training is to begin with.

        Raises:
            UserError: it began with weights of another model, which are not at hand.
        """
        module = ATOM(self.config)
        if self.pretrained_sha256 is not None:
            if self.begin is None:
                raise UserError(f"model {self.id} began with other weights, which are not at hand")
            for name, parameter in stored_parameters(module).items():
                parameter.data = self.begin[name].clone()
        return module

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
