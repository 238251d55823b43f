"""Checkpoints of a training: written whole or not at all, read without unpickling."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from tg80.errors import CorruptFile, UserError
from tg80.files import make_folder, write_atomically

CHECKPOINT = "checkpoint.pt"
FORMAT = 3
_MISSING = "not there"


def write_checkpoint(path: Path, state: Mapping[str, Any], identity: Mapping[str, Any]) -> None:
    """Write a state of tensors and plain values, and what run it belongs to."""
    buffer = io.BytesIO()
    whole = {"format": FORMAT, "identity": json.dumps(identity, sort_keys=True), **state}
    torch.save(whole, buffer)
    make_folder(path.parent)
    write_atomically(path, buffer.getvalue())


def read_checkpoint(
    path: Path, identity: Mapping[str, Any], device: torch.device
) -> dict[str, Any]:
    """Read a checkpoint of the same run.

    Raises:
        CorruptFile: it cannot be read.
        UserError: it belongs to a run with other settings; the message names the first.
    """
    try:
        state = torch.load(path, map_location=device, weights_only=True)
        found = state["format"], json.loads(state["identity"])
    except Exception as error:
        raise CorruptFile(f"{path}: damaged; remove it to train from the start") from error
    if found[0] != FORMAT:
        raise UserError(f"{path}: of another version of this program; remove it to train anew")
    there, here = flat(found[1]), flat(json.loads(json.dumps(identity)))
    for name in sorted(there.keys() | here.keys()):
        theirs, ours = there.get(name, _MISSING), here.get(name, _MISSING)
        if theirs != ours:
            raise UserError(
                f"{path}: of a run with other settings ({name}: {theirs} there, {ours} here); "
                "take the same settings or another folder, or remove it to train anew"
            )
    return state


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted name, `a.b.c`."""
    result: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            result |= flat(value, f"{prefix}{name}.")
        else:
            result[prefix + name] = value
    return result
