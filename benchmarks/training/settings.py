"""The settings of a training; the same words for every learnt model."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from tg80.untrusted.limits import MOST_PROCESSES, MOST_THREADS, BoundedModel

DEFAULT_FIXED_LAG_FRACTION = 0.2

Count = Annotated[int, Field(ge=1)]


class TrainingSettings(BoundedModel):
    """How a model is trained; docs/benchmark/training.md explains it."""

    optimizer: Literal["adamw", "muon"] = Field(
        default="adamw",
        description="of everything, or `muon` for the matrices and AdamW for the rest",
    )
    learning_rate: float = Field(default=3e-3, gt=0, description="peak learning rate of AdamW")
    muon_learning_rate: float = Field(default=0.02, gt=0, description="peak learning rate of Muon")
    weight_decay: float = Field(
        default=1e-2, ge=0, description="of matrices; embeddings, gates, norms and biases have none"
    )
    batch_size: int = Field(default=16, ge=1, description="windows that a process takes at once")
    accumulate: int = Field(
        default=1,
        ge=1,
        description="batches whose gradients are summed into one step of the optimiser",
    )
    processes: int | None = Field(
        default=None,
        ge=1,
        le=MOST_PROCESSES,
        description="processes that share the training; found out from `torchrun`",
    )
    warmup_fraction: float = Field(
        default=0.05, ge=0, lt=1, description="of the budget, in which the rate rises to its peak"
    )
    final_rate_fraction: float = Field(
        default=0.01, ge=0, le=1, description="rate at the end over peak; a cosine leads there"
    )
    gradient_clip: float = Field(default=1.0, gt=0, description="largest norm of the gradient")
    ema_decay: float = Field(
        default=0.99,
        ge=0,
        lt=1,
        description="of the averaged weights a step; these are the ones kept",
    )
    precision: Literal["float32", "bf16"] = Field(
        default="float32", description="`bf16`: matrix products of the training under autocast"
    )
    compile: bool = Field(
        default=False, description="compile the model in training by torch; needs a C++ compiler"
    )
    windows_per_trajectory: int = Field(default=64, ge=1, description="in an epoch")
    train_frames: int | None = Field(
        default=None, ge=2, description="only so many first frames of each train block; null: all"
    )
    fixed_lag_fraction: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="windows at the task's lags, the others to a log-uniform horizon; null: "
        f"{DEFAULT_FIXED_LAG_FRACTION}, and 0 for multi-task training",
    )
    longest_horizon_fs: float | None = Field(
        default=None,
        gt=0,
        description="of log-uniform horizons; null: the task's horizon, and for multi-task "
        "training the train block's length",
    )
    n_lags: Count | tuple[Count, Count] | None = Field(
        default=None,
        description="lags of windows with a drawn horizon: a number, or `[low, high]` to draw it "
        "uniformly; null: as many as the task",
    )
    lags_per_window: Count | None = Field(
        default=None,
        description="learn from so many of a window's lags, drawn anew each time: cheaper steps; "
        "null: from all",
    )
    loss: Literal["mse", "rmse"] = Field(
        default="rmse",
        description="squared error, or its root at each lag: stiff molecules then count too",
    )
    validations: int = Field(default=10, ge=1, description="evenly over the budget")
    patience: int | None = Field(
        default=None,
        ge=1,
        description="validations without a better one before stopping; null: never",
    )
    checkpoint_every_seconds: float = Field(
        default=30.0, ge=0, description="between checkpoints; one more at every validation"
    )
    loss_atoms: Literal["scored", "all"] = Field(
        default="scored", description="atoms whose error is learnt from"
    )
    workers: int = Field(
        default=0,
        ge=0,
        le=MOST_PROCESSES,
        description="processes that cut windows ahead of the training, for fast GPUs; 0: none",
    )
    threads: int = Field(
        default=1,
        ge=1,
        le=MOST_THREADS,
        description="CPU threads; one on purpose, so that CPU time counts",
    )

    @model_validator(mode="after")
    def _check_lags(self) -> TrainingSettings:
        if isinstance(self.n_lags, tuple) and self.n_lags[0] > self.n_lags[1]:
            raise ValueError(f"n_lags must be [low, high], not {list(self.n_lags)}")
        return self

    @property
    def windows_per_step(self) -> int:
        """Windows of one step of the optimiser, over all processes."""
        return self.batch_size * self.accumulate * (self.processes or 1)
