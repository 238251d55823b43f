"""e3nn's layers, imported and built without TorchScript."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch

# e3nn 0.4 loads its table of rotation matrices by torch.load, which since torch 2.6 admits
# tensors only; that table also holds slices. They are harmless, and are admitted during this
# import alone. e3nn 0.5 and later need nothing. The warnings are torch's about TorchScript.
with torch.serialization.safe_globals([slice]), warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from e3nn import get_optimization_defaults, nn, o3, set_optimization_defaults

__all__ = ["nn", "o3", "plain_layers"]


@contextmanager
def plain_layers() -> Iterator[None]:
    """Let e3nn build plain modules inside.

    Its default before 0.6 is TorchScript, which takes a quarter of a second a layer to compile,
    is no faster here, and can't be seen through by `torch.compile`.
    """
    before = get_optimization_defaults()
    name, plain = ("jit_mode", "eager") if "jit_mode" in before else ("jit_script_fx", False)
    set_optimization_defaults(**{name: plain})
    try:
        yield
    finally:
        set_optimization_defaults(**{name: before[name]})
