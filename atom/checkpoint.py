"""One file for a trained model: safetensors with the settings as JSON in its header."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from atom.config import ATOMConfig

FORMAT_VERSION = "1"
# Modules that own parameters by now; their names in files leave the owner out, as they always did.
OWNERS = ("decoder.", "projections.", "mixing.")


class CheckpointError(ValueError):
    """A file that is not a checkpoint of this model; the message says what to do."""


def stored_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters of a model under their names in a checkpoint."""

    def stored(name: str) -> str:
        for owner in OWNERS:
            name = name.replace(owner, "")
        return name

    return {stored(name): parameter for name, parameter in model.named_parameters()}


def write_checkpoint(path: str | Path, config: ATOMConfig, tensors: Mapping[str, Tensor]) -> None:
    """Write settings and parameters atomically.

    Only parameters are stored: buffers follow from the settings, and e3nn names its own
    differently from version to version.
    """
    path = Path(path)
    header = {"atom_format": FORMAT_VERSION, "atom_config": config.model_dump_json()}
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        new = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with open(os.open(temporary, new, 0o666), "wb") as stream:
            stream.write(save(plain, metadata=header))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_checkpoint(path: str | Path) -> tuple[ATOMConfig, dict[str, Tensor]]:
    """Read what :func:`write_checkpoint` wrote.

    Raises:
        CheckpointError: if the file is missing, damaged, or not an ATOM checkpoint.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: not a readable checkpoint ({error})") from error
    if header.get("atom_format") != FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: not an ATOM checkpoint of format {FORMAT_VERSION}; write it by ATOM.save"
        )
    try:
        config = ATOMConfig(**json.loads(header["atom_config"]))
    except (KeyError, TypeError, ValueError, ValidationError) as error:
        first_line = str(error).splitlines()[0]
        raise CheckpointError(f"{path}: settings can't be read ({first_line})") from error
    return config, tensors
