"""ATOM behind the harness's protocol."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field
from rich.progress import Progress
from torch import nn

from atom import ATOM, ATOMConfig
from benchmarks import distributed
from benchmarks.data import TrainingData
from benchmarks.loading import Turn, first_frames, training_lags
from benchmarks.protocol import Budget, FitReport
from benchmarks.scoring import validation_s2s
from benchmarks.settings import parse_settings
from benchmarks.states import StartStates, score_mask_of
from benchmarks.training import Trainer, TrainingSettings, pick_device
from tg80.errors import UserError
from tg80.windows import TrainingWindows

WEIGHTS, SETTINGS = "atom.safetensors", "atom.json"


class AtomSettings(BaseModel):
    """Settings of an ATOM run: a preset, what differs from it, and the training."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    preset: Literal["mini", "public", "paper"] = "mini"
    model: dict[str, Any] = Field(default_factory=dict, description="fields of ATOMConfig")
    training: TrainingSettings = Field(default_factory=TrainingSettings)
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
    """Sum of the squared errors of a turn's windows, and how many count."""

    atoms: str

    def __call__(self, module: nn.Module, turn: Turn) -> tuple[torch.Tensor, torch.Tensor]:
        assert isinstance(module, ATOM)
        batch, noise = turn.windows, turn.noise
        scored = score_mask_of(batch.atomic_numbers, self.atoms)
        mean = module.training_loss(
            batch.positions, batch.velocities, batch.atomic_numbers, batch.lags_fs, batch.targets,
            score_mask=scored, noise=(noise.positions, noise.velocities, noise.targets),
        )  # fmt: skip
        # `training_loss` leaves windows without a scored atom or a lag out of its mean.
        count = (scored.any(1) & ~batch.lags_fs.isnan().all(1)).sum()
        return mean * count, count


class AtomJoint:
    """ATOM whose steps attend to each other."""

    id: ClassVar[str] = "atom"
    trains: ClassVar[bool] = True
    oracle: ClassVar[bool] = False
    seen_only: ClassVar[bool] = False
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
        self.config = parse_settings(ATOMConfig, preset | overrides, prefix="model.")
        training = self.given.training
        processes = training.processes or distributed.world_size()
        self.training = training.model_copy(update={"processes": processes})
        self.device = pick_device(self.given.device)
        self.module: ATOM | None = None
        self.begin: dict[str, torch.Tensor] | None = None

    @classmethod
    def pretrained(cls, module: ATOM, **settings: Any) -> Self:
        """A model of the same shape whose training begins with the weights of another.

        Args:
            module: the other, which stays as it is. settings: as in `AtomSettings`, less `model`.
        """
        weights = {name: p.detach().cpu().clone() for name, p in module.named_parameters()}
        shape = {"model": module.config.model_dump(mode="json")}
        model = cls(**settings, **shape, pretrained=sha256_of(weights))
        model.begin = weights
        return model

    def settings(self) -> dict[str, Any]:
        """The resolved settings."""
        begin = self.given.pretrained
        return {
            "preset": self.given.preset,
            "model": self.config.model_dump(),
            "training": self.training.model_dump(mode="json"),
            "device": self.device.type,
            **({} if begin is None else {"pretrained": begin}),
        }

    def initialise(self, data: TrainingData, *, seed: int) -> None:
        """Draw the weights that training with this seed begins with, or take those given.

        Raises:
            UserError: it began with weights of another model, which are not at hand.
        """
        torch.manual_seed(seed)
        module = ATOM(self.config)
        if self.given.pretrained is not None:
            if self.begin is None:
                raise UserError(f"model {self.id} began with other weights, which are not at hand")
            module.load_state_dict(self.begin, strict=False)  # Buffers follow from the settings.
        self.module = module.to(self.device).eval()

    def fit(
        self,
        data: TrainingData,
        *,
        budget: Budget,
        seed: int,
        out: Path,
        progress: Progress | None = None,
    ) -> FitReport:
        """Train on the train blocks; the weights best on `val` are kept."""
        training = self.training
        torch.set_num_threads(training.threads)
        self.initialise(data, seed=seed)
        module = self._trained()
        blocks = first_frames(data.trajectories, training.train_frames)
        windows = TrainingWindows(
            blocks, training_lags(data.task, training, blocks), seed=seed,
            windows_per_trajectory=training.windows_per_trajectory,
        )  # fmt: skip
        trainer = Trainer(
            module,
            _LossFunction(data.task.score if training.loss_atoms == "scored" else "all"),
            windows,
            None if data.validation is None else self._validation(data),
            training,
            budget=budget,
            seed=seed,
            out=out,
            device=self.device,
            identity={
                "model": self.config.model_dump(mode="json"),
                "pretrained": self.given.pretrained,
            },
        )
        best, report = trainer.run(progress)
        module.load_state_dict(best)
        self.module = module.eval()
        return report

    def _validation(self, data: TrainingData):
        part = data.validation
        assert part is not None

        def validate(module: nn.Module) -> float:
            assert isinstance(module, ATOM)
            self.module = module
            return validation_s2s(self, part)

        return validate

    def _trained(self) -> ATOM:
        if self.module is None:
            raise UserError(f"model {self.id} has not been trained or loaded")
        return self.module

    @torch.no_grad()
    def predict(
        self, states: StartStates, lags_fs: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Positions (B, P, N, 3) A at lags_fs (B, P), and failures (B,): none of its own."""
        inputs = (states.positions, states.velocities, states.atomic_numbers, lags_fs)
        positions = self._trained()(*(x.to(self.device) for x in inputs))
        return positions.float().cpu(), torch.zeros(len(states), dtype=torch.bool)

    def save(self, folder: Path) -> None:
        """Write weights and settings."""
        folder.mkdir(parents=True, exist_ok=True)
        self._trained().save(folder / WEIGHTS)
        (folder / SETTINGS).write_text(json.dumps(self.settings()))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote, onto the CPU."""
        model = cls(**json.loads((folder / SETTINGS).read_text()) | {"device": "cpu"})
        model.module = ATOM.from_checkpoint(folder / WEIGHTS)
        return model


class AtomStart(AtomJoint):
    """ATOM whose steps attend to the start state and themselves only."""

    id: ClassVar[str] = "atom-start"
    fixed: ClassVar[dict[str, Any]] = {"time_attention": "start"}


class AtomGat(AtomJoint):
    """ATOM with GATv2 message passing along bonds in place of attention over all atoms."""

    id: ClassVar[str] = "atom-gat"
    fixed: ClassVar[dict[str, Any]] = {"attention": "gat"}
