"""Small settings, and the molecules of `benchmarks.testing`."""

import importlib.util

import pytest

from benchmarks.models import MODELS
from benchmarks.testing import (
    FRAME_FS,
    N_FRAMES,
    NAMES,
    TASK,
    TEST_ID,
    TEST_OOD,
    TRAIN,
    VAL,
    spring_hessian,
    toy_data,
    toy_trajectories,
    toy_trajectory,
)

__all__ = [
    "FRAME_FS",
    "NAMES",
    "N_FRAMES",
    "TASK",
    "TEST_ID",
    "TEST_OOD",
    "TRAIN",
    "VAL",
    "spring_hessian",
    "toy_data",
    "toy_trajectories",
    "toy_trajectory",
]

SMALL = ("ethylene", "acetonitrile", "chloroform", "formaldehyde", "methanol", "chlorobenzene")
"""In fold 2 four are trained on, chloroform is in val, formaldehyde in test_id."""
TINY_ATOM = {
    "model": {"n_blocks": 1, "width": 16, "n_heads": 2, "feedforward_width": 16},
    "training": {"windows_per_trajectory": 4, "batch_size": 4, "validations": 2},
}
TINY_EGNN = {
    "model": {"n_layers": 1, "width": 8, "time_width": 4},
    "training": {"windows_per_trajectory": 4, "batch_size": 4, "validations": 2},
}
# Long steps: nothing in the toys moves fast.
TINY_MACE = {
    "model": {"n_channels": 4, "max_ell": 1, "correlation": 1, "radial_widths": [4]},
    "training": {"windows_per_trajectory": 4, "batch_size": 4, "validations": 2},
    "rollout": {"time_step_fs": 5.0},
}
TINY_NEQUIP = TINY_MACE | {"model": {"n_features": 4, "n_layers": 2, "radial_width": 4}}
TINY_FLASHMD = {
    "model": {"width": 8, "node_width": 8, "feedforward_width": 8, "n_heads": 2, "n_blocks": 1},
    "training": {"windows_per_trajectory": 4, "batch_size": 4, "validations": 2},
}
# Trained on the mini set that ships along in a second or two.
SMALL_ATOM = {
    "model": {"n_blocks": 2, "width": 32, "n_heads": 2, "feedforward_width": 32},
    "training": {
        "windows_per_trajectory": 4, "batch_size": 8, "validations": 1, "loss_atoms": "all",
    },
}  # fmt: skip


def needs(
    package: str, *marks: pytest.MarkDecorator, extra: str | None = None
) -> tuple[pytest.MarkDecorator, ...]:
    """Marks of tests that need an optional package, of an extra that has its name or another."""
    reason = f"{package} is not installed: pip install '.[{extra or package}]'"
    return (*marks, pytest.mark.skipif(importlib.util.find_spec(package) is None, reason=reason))


NEEDS_MACE = needs("mace", pytest.mark.mace)
NEEDS = {"mace": NEEDS_MACE, "nequip": needs("nequip"), "sgdml": needs("sgdml")}
NEEDS["flashmd"] = needs("metatrain", extra="flashmd")
NEEDS["gfn2-xtb"] = (pytest.mark.slow,)
MODEL_PARAMS = [pytest.param(name, marks=NEEDS.get(name, ())) for name in MODELS]
