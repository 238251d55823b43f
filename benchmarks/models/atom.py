"""ATOM behind the harness's protocol."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import Field
from torch import nn

from atom import ATOM, ATOMConfig
from atom.checkpoint import stored_parameters
from atom.loss import LossKind
from benchmarks.models.learnt import Learnt
from benchmarks.models.settings import parse_settings
from benchmarks.tasks.states import score_mask_of
from benchmarks.training.batches import MicroBatch
from benchmarks.training.trainer import LossFunction
from tg80.errors import UserError
from tg80.untrusted.limits import BoundedModel

WEIGHTS, SETTINGS = "atom.safetensors", "atom.json"
# How a preset trains where nothing else is asked for; docs/model/atom.md has the trials.
TRAINING: dict[str, dict[str, Any]] = {"mini": {"learning_rate": 5e-3, "lags_per_window": 3}}


class AtomSettings(BoundedModel):
    """Settings of an ATOM run: a preset, what differs from it, and the training."""

    preset: Literal["mini", "public", "paper"] = "mini"
    model: dict[str, Any] = Field(default_factory=dict, description="fields of ATOMConfig")
    training: dict[str, Any] = Field(default_factory=dict, description="fields of TrainingSettings")
    device: str = "cpu"
    pretrained: str | None = Field(None, description="sha256 of the weights training begins with")


def sha256_of(weights: Mapping[str, torch.Tensor]) -> str:
    """One hash for the weights of a model."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode() + weights[name].contiguous().numpy().tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class _LossFunction:
    """Sum of the errors of a micro-batch's windows, and how many count."""

    atoms: str
    kind: LossKind

    def __call__(
        self, module: nn.Module, micro_batch: MicroBatch
    ) -> tuple[torch.Tensor, torch.Tensor]:
        assert isinstance(module, ATOM)
        batch = micro_batch.windows
        scored = score_mask_of(batch.atomic_numbers, self.atoms)
        mean = module.training_loss(
            batch.positions, batch.velocities, batch.atomic_numbers, batch.lags_fs, batch.targets,
            score_mask=scored, noise=micro_batch.noise, kind=self.kind,
        )  # fmt: skip
        # `training_loss` leaves windows without a scored atom or a lag out of its mean.
        count = (scored.any(1) & ~batch.lags_fs.isnan().all(1)).sum()
        return mean * count, count


class AtomJoint(Learnt[ATOM, ATOMConfig]):
    """ATOM whose steps attend to each other."""

    id: ClassVar[str] = "atom"
    weights_file: ClassVar[str] = WEIGHTS
    settings_file: ClassVar[str] = SETTINGS
    fixed: ClassVar[dict[str, Any]] = {"time_attention": "joint"}

    def __init__(self, **settings: Any) -> None:
        """Settings as in `AtomSettings`.

        Raises:
            UserError: a setting is unknown or out of range.
        """
        self.given = parse_settings(AtomSettings, settings)
        for name, value in self.fixed.items():
            if self.given.model.get(name, value) != value:
                raise UserError(f"model {self.id} is {name} = {value!r}")
        preset = ATOMConfig.preset(self.given.preset).model_dump()
        overrides = self.given.model | self.fixed
        config = parse_settings(ATOMConfig, preset | overrides, prefix="model.")
        super().__init__(
            self.given.preset, config, TRAINING.get(self.given.preset, {}), self.given.training,
            self.given.device,
        )  # fmt: skip
        self.begin: dict[str, torch.Tensor] | None = None

    @classmethod
    def pretrained(cls, module: ATOM, **settings: Any) -> Self:
        """A model of the same shape whose training begins with the weights of another.

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
        begin = self.given.pretrained
        return super().settings() | ({} if begin is None else {"pretrained": begin})

    def identity(self) -> dict[str, Any]:
        """The model's settings, and the weights it began with."""
        return super().identity() | {"pretrained": self.given.pretrained}

    def build(self) -> ATOM:
        """A module with random weights, or those that training is to begin with.

        Raises:
            UserError: it began with weights of another model, which are not at hand.
        """
        module = ATOM(self.config)
        if self.given.pretrained is not None:
            if self.begin is None:
                raise UserError(f"model {self.id} began with other weights, which are not at hand")
            for name, parameter in stored_parameters(module).items():
                parameter.data = self.begin[name].clone()
        return module

    def loss(self, atoms: str) -> LossFunction:
        """ATOM's own loss, with its label noise."""
        return _LossFunction(atoms, self.training.loss)

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
