"""What learnt models share: settings, training, prediction, and a folder to save to."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, NamedTuple, Self, TypeVar

import torch
from pydantic import BaseModel, Field
from rich.progress import Progress
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from atom.loss import LossKind, masked_loss
from benchmarks.interface import Budget, FitReport
from benchmarks.models.cards import Carded
from benchmarks.models.settings import parse_settings
from benchmarks.scoring.errors import validation_error
from benchmarks.tasks.data import TrainingData
from benchmarks.tasks.states import StartStates, score_mask_of
from benchmarks.training import distributed
from benchmarks.training.batches import MicroBatch, first_frames, training_lags
from benchmarks.training.trainer import LossFunction, Trainer, TrainingSettings, pick_device
from tg80.errors import UserError
from tg80.files import make_folder, write_atomically
from tg80.untrusted.limits import BoundedModel
from tg80.windows.windows import TrainingWindows

Module = TypeVar("Module", bound=nn.Module)
Config = TypeVar("Config", bound=BaseModel)


class LearntSettings(BoundedModel):
    """Settings of a run: a preset, and what differs from it."""

    preset: str = "mini"
    model: dict[str, Any] = Field(default_factory=dict, description="fields of the config class")
    training: dict[str, Any] = Field(default_factory=dict, description="fields of TrainingSettings")
    device: str = "cpu"
    pretrained: str | None = Field(None, description="sha256 of the weights training begins with")
    pretrained_on: str | None = Field(None, description="task that these weights learnt")
    pretrained_by: str | None = Field(None, description="hash of how they learnt it")
    pretrained_seconds: float | None = Field(None, description="CPU time that this took")


BEGUN = ("pretrained", "pretrained_on", "pretrained_by", "pretrained_seconds")
"""Settings that say which weights training began with."""


class Origin(NamedTuple):
    """Where weights are from that training begins with.

    Attributes:
        on: task that they learnt.
        by: hash of how they learnt it, the same in all folds.
        seconds: CPU time that this took.
    """

    on: str
    by: str
    seconds: float


def sha256_of(weights: Mapping[str, torch.Tensor]) -> str:
    """One hash for the weights of a model."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode() + weights[name].contiguous().numpy().tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class Preset:
    """What a named size and its training set other than by default.

    Attributes:
        model: fields of the model's config class.
        training: fields of `TrainingSettings`.
    """

    model: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class WindowLoss:
    """Sum of the errors of a micro-batch's windows, and how many count.

    Attributes:
        atoms: "heavy" or "all", which atoms count.
        kind: what is averaged over windows.
    """

    atoms: str
    kind: LossKind

    def __call__(
        self, module: nn.Module, micro_batch: MicroBatch
    ) -> tuple[torch.Tensor, torch.Tensor]:
        batch = micro_batch.windows
        scored = score_mask_of(batch.atomic_numbers, self.atoms)
        # The mean leaves out windows without a scored atom or a lag.
        count = (scored.any(1) & ~batch.lags_fs.isnan().all(1)).sum()
        return self.mean(module, micro_batch, scored) * count, count

    def mean(
        self, module: nn.Module, micro_batch: MicroBatch, scored: torch.Tensor
    ) -> torch.Tensor:
        """Mean error of the windows that count, scored (B, N) being their atoms."""
        batch = micro_batch.windows
        predicted = module(batch.positions, batch.velocities, batch.atomic_numbers, batch.lags_fs)
        valid = ~batch.lags_fs.isnan()
        return masked_loss(predicted, batch.targets, scored, valid, kind=self.kind)


class Learnt(Carded, ABC, Generic[Module, Config]):
    """A model that the one training loop trains.

    A subclass says how its module is built; the module is called with (positions, velocities,
    atomic_numbers, lags_fs) and returns positions (B, P, N, 3) A.

    Attributes:
        settings_class: what its settings are checked by.
        config_class: settings of its module.
        presets: by name.
        fixed: settings of the module that make it this model; no other values are taken.
        goes_on: whether its weights alone make the function that training begins with: not so where
            elements and scales are taken from the data.
        weights_file: name in the folder of a saved model.
        settings_file: likewise.
        module: None before it is trained or loaded.
    """

    oracle: bool = False
    seen_only: ClassVar[bool] = False
    settings_class: ClassVar[type[LearntSettings]] = LearntSettings
    config_class: type[Config]
    presets: ClassVar[dict[str, Preset]]
    fixed: ClassVar[dict[str, Any]] = {}
    goes_on: ClassVar[bool] = True
    weights_file: ClassVar[str] = "weights.safetensors"
    settings_file: ClassVar[str] = "settings.json"

    def __init__(self, **settings: Any) -> None:
        """Make a model to be trained.

        Args:
            **settings: fields of `settings_class`.

        Raises:
            UserError: a setting is unknown or out of range.
        """
        given = parse_settings(self.settings_class, settings)
        if given.preset not in self.presets:
            known = ", ".join(self.presets)
            raise UserError(f"setting preset: unknown {given.preset!r}; choose one of {known}")
        for name, value in self.fixed.items():
            if given.model.get(name, value) != value:
                raise UserError(f"model {self.id} is {name} = {value!r}")
        self.preset, preset = given.preset, self.presets[given.preset]
        model = {**preset.model, **given.model, **self.fixed}
        self.config = parse_settings(self.config_class, model, prefix="model.")
        asked = {**preset.training, **given.training}
        training = parse_settings(TrainingSettings, asked, prefix="training.")
        processes = training.processes or distributed.world_size()
        self.training = training.model_copy(update={"processes": processes})
        self.device = pick_device(given.device)
        self.module: Module | None = None
        told = {name: getattr(given, name) for name in BEGUN}
        self.begun = {name: value for name, value in told.items() if value is not None}
        self.begin: dict[str, torch.Tensor] | None = None

    def begin_with(self, module: Module, origin: Origin | None = None) -> Self:
        """Let training begin with the weights of another module of the same shape.

        Args:
            module: it is not changed.
            origin: of its weights.
        """
        stored = self.parameters_of(module)
        self.begin = {name: weight.detach().cpu().clone() for name, weight in stored.items()}
        self.begun = {"pretrained": sha256_of(self.begin)}
        if origin is not None:
            self.begun |= {f"pretrained_{name}": value for name, value in origin._asdict().items()}
        return self

    def settings(self) -> dict[str, Any]:
        """The resolved settings, and the weights it began with if given."""
        return {
            "preset": self.preset,
            "model": self.config.model_dump(),
            "training": self.training.model_dump(mode="json"),
            "device": self.device.type,
            **self.begun,
        }

    @abstractmethod
    def build(self) -> Module:
        """A module with weights from torch's global generator."""

    def identity(self) -> dict[str, Any]:
        """What else than its training makes this model: a checkpoint of another one is refused."""
        return {"model": self.config.model_dump(mode="json"), **self.begun}

    def parameters_of(self, module: Module) -> dict[str, nn.Parameter]:
        """The parameters of a module under the names that files know them by."""
        return dict(module.named_parameters())

    def loss(self, atoms: str) -> LossFunction:
        """What training minimises; `atoms` are "heavy" or "all"."""
        return WindowLoss(atoms, self.training.loss)

    def initialise(self, data: TrainingData, *, seed: int) -> None:
        """Draw the weights that training with this seed begins with, or take those given.

        Raises:
            UserError: it began with weights of another model, which are not at hand or do not fit.
        """
        torch.manual_seed(seed)
        module = self.build()
        if self.begun:
            self._begin(module)
        self.module = module.to(self.device).eval()

    @torch.no_grad()
    def _begin(self, module: Module) -> None:
        if self.begin is None:
            raise UserError(f"model {self.id} began with other weights, which are not at hand")
        parameters = self.parameters_of(module)
        if _shapes(self.begin) != _shapes(parameters):
            raise UserError(f"model {self.id}: the weights to begin with are of another shape")
        for name, parameter in parameters.items():
            parameter.copy_(self.begin[name])

    def fit(
        self,
        data: TrainingData,
        *,
        budget: Budget,
        seed: int,
        out: Path,
        progress: Progress | None = None,
    ) -> FitReport:
        """Train on the train blocks; the weights best on `val` and `val_time` are kept."""
        training = self.training
        torch.set_num_threads(training.threads)
        self.initialise(data, seed=seed)
        module = self.trained()
        trainer = Trainer(
            module,
            self.loss(data.task.score if training.loss_atoms == "scored" else "all"),
            self.windows(data, seed),
            self.validation(data),
            training,
            budget=budget,
            seed=seed,
            out=out,
            device=self.device,
            identity=self.identity(),
        )
        best, report = trainer.run(progress)
        module.load_state_dict(best)
        self.module = module.eval()
        return report

    def windows(self, data: TrainingData, seed: int) -> TrainingWindows:
        """What is learnt from, batch after batch."""
        training = self.training
        blocks = first_frames(data.trajectories, training.train_frames)
        return data.windows(
            blocks, training_lags(data.task, training, blocks), seed=seed,
            windows_per_trajectory=training.windows_per_trajectory,
        )  # fmt: skip

    def validation(self, data: TrainingData) -> Callable[[Any], float] | None:
        """What says of a module how far it errs; None where there is nothing to look at."""
        if not data.validation:
            return None

        def validate(module: Module) -> float:
            self.module = module
            return validation_error(self, data.validation)

        return validate

    def trained(self) -> Module:
        """The module.

        Raises:
            UserError: there is none yet.
        """
        if self.module is None:
            raise UserError(f"model {self.id} has not been trained or loaded")
        return self.module

    @torch.no_grad()
    def predict(
        self, states: StartStates, lags_fs: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Positions (B, P, N, 3) A at lags_fs (B, P), and failures (B,): none of its own."""
        inputs = (states.positions, states.velocities, states.atomic_numbers, lags_fs)
        positions = self.trained()(*(x.to(self.device) for x in inputs))
        return positions.float().cpu(), torch.zeros(len(states), dtype=torch.bool)

    def save(self, folder: Path) -> None:
        """Write weights and settings."""
        make_folder(folder)
        self.write_weights(folder / self.weights_file)
        write_atomically(folder / self.settings_file, json.dumps(self.settings()).encode())

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote, onto the CPU.

        Raises:
            OSError, ValueError: the files are missing or damaged.
        """
        settings = json.loads((folder / cls.settings_file).read_text())
        model = cls(**settings | {"device": "cpu"})
        model.module = model.read_weights(folder / cls.weights_file)
        return model

    def write_weights(self, path: Path) -> None:
        """Write the module's parameters."""
        parameters = self.parameters_of(self.trained())
        plain = {name: p.detach().cpu().contiguous() for name, p in parameters.items()}
        write_atomically(path, save(plain))

    def read_weights(self, path: Path) -> Module:
        """The module with the parameters that `write_weights` wrote.

        Raises:
            ValueError: the file is damaged, or its parameters are another module's.
        """
        try:
            found = load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path}: not a readable file of weights ({error})") from error
        with torch.random.fork_rng(devices=[]):
            module = self.build()
        parameters = self.parameters_of(module)
        if _shapes(found) != _shapes(parameters):
            raise ValueError(f"{path}: the weights do not fit the settings beside them")
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(found[name])
        return module.eval()


def _shapes(tensors: Mapping[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}
