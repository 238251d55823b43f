"""FlashMD as a model: trained on steps of one stride, composed to the lags asked."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.models.flashmd.network import MOMENTUM, Facts, FlashmdConfig, FlashmdModule
from benchmarks.models.flashmd.steps import StepBatch, TrainingSteps, steps_at
from benchmarks.models.force_fields.rollout import RolloutSettings, extent
from benchmarks.models.learnt import Learnt, Preset
from benchmarks.tasks.data import TrainingData
from benchmarks.tasks.states import StartStates
from benchmarks.training.batches import DrawnLags, MicroBatch, first_frames
from benchmarks.training.trainer import LossFunction
from tg80.constants import masses_of
from tg80.errors import UserError
from tg80.files import write_atomically
from tg80.theory import symbols_of
from tg80.windows.windows import WindowBatch

FACTS_FILE = "facts.json"
LARGEST_BATCH = 64
"""Windows that are predicted at once."""


class Flashmd(Learnt[FlashmdModule, FlashmdConfig]):
    """FlashMD by metatrain: a stride of fixed length, composed to the lags asked.

    References:
        Bigi et al., arXiv:2505.19350; github.com/metatensor/metatrain.
    """

    id: ClassVar[str] = "flashmd"
    goes_on: ClassVar[bool] = False
    config_class: type[FlashmdConfig] = FlashmdConfig
    presets: ClassVar[dict[str, Preset]] = {
        "mini": Preset(training={"learning_rate": 3e-3, "weight_decay": 0.0, "batch_size": 16}),
        "published": Preset(
            {
                "momentum_difference": False,
                "width": 128,
                "node_width": 512,
                "feedforward_width": 256,
                "n_heads": 8,
                "n_attention_layers": 2,
                "n_blocks": 3,
            },
            {
                "learning_rate": 3e-4,
                "weight_decay": 0.0,
                "batch_size": 16,
                "warmup_fraction": 0.01,
                "ema_decay": 0.0,
            },
        ),
    }

    def __init__(self, **settings: Any) -> None:
        """Make a model to be trained; settings as in `LearntSettings`.

        Raises:
            UserError: metatrain is not installed; a setting is unknown or out of range.
        """
        if importlib.util.find_spec("metatrain") is None:
            raise UserError(f"model {self.id} needs metatrain: pip install 'tg80[flashmd]'")
        super().__init__(**settings)
        self.facts: Facts | None = None

    def identity(self) -> dict[str, Any]:
        """The settings and the facts of the data."""
        return super().identity() | {"facts": self.known().model_dump(mode="json")}

    def known(self) -> Facts:
        """The facts of the training data.

        Raises:
            UserError: there are none yet.
        """
        if self.facts is None:
            raise UserError(f"model {self.id} has not been trained or loaded")
        return self.facts

    def build(self) -> FlashmdModule:
        """A network with random weights."""
        return FlashmdModule(self.config, self.known())

    def initialise(self, data: TrainingData, *, seed: int) -> None:
        """Take the facts of the train blocks, and draw the weights of this seed."""
        blocks = first_frames(data.trajectories, self.training.train_frames)
        frames = max(1, round(self.config.stride_fs / blocks[0].frame_fs))
        moves, changes = [], []
        for block in blocks:
            frames_here = max(1, round(frames * blocks[0].frame_fs / block.frame_fs))
            mass = masses_of(block.atomic_numbers)[:, None]
            p = MOMENTUM * mass * np.asarray(block.velocities, dtype=np.float64)
            x = np.asarray(block.positions, dtype=np.float64)
            moves.append(np.square(x[frames_here:] - x[:-frames_here]).mean())
            before = p[:-frames_here] if self.config.momentum_difference else 0.0
            changes.append(np.square(p[frames_here:] - before).mean())
        self.facts = Facts(
            elements=tuple(sorted({int(z) for b in blocks for z in b.atomic_numbers})),
            stride_fs=frames * blocks[0].frame_fs,
            displacement=math.sqrt(np.mean(moves)),
            momentum=math.sqrt(np.mean(changes)),
        )
        super().initialise(data, seed=seed)

    def windows(self, data: TrainingData, seed: int) -> TrainingSteps:
        """Steps of the train blocks, turned at random."""
        return TrainingSteps(
            first_frames(data.trajectories, self.training.train_frames),
            DrawnLags((self.known().stride_fs,), 1.0),
            seed=seed,
            windows_per_trajectory=self.training.windows_per_trajectory,
        )

    def loss(self, atoms: str) -> LossFunction:
        """Squared errors of positions and momenta over their scales; all atoms count."""

        def loss(module: nn.Module, batch: MicroBatch) -> tuple[Tensor, Tensor]:
            errors = self._errors(module, batch.windows)
            return errors.sum(), errors.new_tensor(float(len(errors)))

        return loss

    def _errors(self, module: nn.Module, steps: WindowBatch) -> Tensor:
        """Mean squared scaled error (B,) of a module at steps."""
        assert isinstance(steps, StepBatch)
        x, v, z = (
            a.to(self.device) for a in (steps.positions, steps.velocities, steps.atomic_numbers)
        )
        # The averaged weights that are validated are in a module of their own.
        plain = next(m for m in module.modules() if isinstance(m, FlashmdModule))
        dx, dp = plain(x, v, z)
        displacement, momentum = plain.scales
        before = plain.momenta(v, z) * self.config.momentum_difference
        truth_x = (steps.targets[:, 0].to(x) - x) / displacement
        truth_p = (plain.momenta(steps.later.to(v), z) - before) / momentum
        off = (dx - truth_x).square() + (dp - truth_p).square()
        real = (z > 0)[..., None]
        return (off * real).sum((1, 2)) / (6 * real.sum((1, 2)))

    def validation(self, data: TrainingData) -> Callable[[nn.Module], float] | None:
        """The error of the first step of the validation windows, parts alike."""
        stride = self.known().stride_fs
        parts = []
        for part in data.validation:
            wanted = set(part.windows.states.start_id)
            found = [
                (block, i)
                for block in data.validation_blocks
                for i in range(block.n_frames - math.ceil(stride / block.frame_fs))
                if block.start_id(i) in wanted
            ]
            if found:
                blocks, starts = zip(*found, strict=True)
                parts.append(steps_at(blocks, starts, stride))

        @torch.no_grad()
        def validate(module: nn.Module) -> float:
            errors = [float(self._errors(module, steps).mean()) for steps in parts]
            return math.exp(np.mean(np.log(errors)))

        return validate if parts else None

    @torch.no_grad()
    def predict(self, states: StartStates, lags_fs: Tensor) -> tuple[Tensor, Tensor]:
        """Positions (B, P, N, 3) A at lags_fs (B, P), and the windows that flew apart (B,)."""
        strange = set(states.atomic_numbers.unique().tolist()) - {0, *self.known().elements}
        if strange:
            raise UserError(
                f"no training molecule has {symbols_of(sorted(strange))[0]}; {self.id} can't"
            )
        rows = torch.arange(len(states)).split(LARGEST_BATCH)
        found = [self._predict(states.select(r.tolist()), lags_fs[r]) for r in rows]
        positions, failed = zip(*found, strict=True)
        return torch.cat(positions), torch.cat(failed)

    def _predict(self, states: StartStates, lags_fs: Tensor) -> tuple[Tensor, Tensor]:
        module, stride = self.trained(), self.known().stride_fs
        z = states.atomic_numbers.to(self.device)
        x, v = states.positions.to(self.device), states.velocities.to(self.device)
        steps = torch.nan_to_num(lags_fs.double()) / stride
        path = [(x, v)]
        for _ in range(math.ceil(float(steps.max()) - 1e-4)):
            path.append(module.step(*path[-1], z))
        xs, vs = (torch.stack(part, 1).cpu() for part in zip(*path, strict=True))
        # Between two steps: the cubic of both positions and velocities.
        before = (steps + 1e-4).floor().long().clamp(max=max(0, len(path) - 2))
        after = (before + 1).clamp(max=len(path) - 1)
        s = (steps - before)[..., None, None].float()
        row = torch.arange(len(xs))[:, None]
        x0, x1 = xs[row, before], xs[row, after]
        v0, v1 = stride * vs[row, before], stride * vs[row, after]
        h = s**2 * (3 - 2 * s)
        positions = x0 + h * (x1 - x0) + s * (1 - s) ** 2 * v0 - s**2 * (1 - s) * v1
        real = states.atom_mask[..., None]
        last = torch.stack([xs[i, : int(n) + 1][-1] for i, n in enumerate(steps.amax(1).ceil())])
        allowed = RolloutSettings().largest_spread * (extent(states.positions, real) + 2) - 2
        failed = ~(extent(last, real) <= allowed) | ~torch.isfinite(positions).flatten(1).all(1)
        start = states.positions[:, None].expand_as(positions)
        return torch.where(failed[:, None, None, None], start, positions), failed

    def write_weights(self, path: Path) -> None:
        """Write the parameters, and the facts of the training data beside them."""
        super().write_weights(path)
        write_atomically(path.with_name(FACTS_FILE), self.known().model_dump_json().encode())

    def read_weights(self, path: Path) -> FlashmdModule:
        """The module that `write_weights` wrote.

        Raises:
            OSError, ValueError: a file is missing or damaged.
        """
        self.facts = Facts.model_validate_json(path.with_name(FACTS_FILE).read_text())
        return super().read_weights(path)
