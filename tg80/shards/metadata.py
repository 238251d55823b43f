"""What a shard says about itself: molecule, level of theory, recipe, seeds, versions, statistics.

Everything static lives in the attributes of `parameters/tg80`, one attribute a field of
`ShardMetadata`: numbers and text as they are, lists and dictionaries as JSON. A SHA-256 over the
canonical JSON of all of them lies beside, because HDF5's own checksums cover data sets only.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from tg80.errors import CorruptFile
from tg80.untrusted.documents import first_fault

FORMAT_VERSION = 1
CHECKSUM_ATTRIBUTE = "metadata_sha256"


class FileMetadata(BaseModel):
    """What shards and files of twins both say of a molecule and of how it was moved."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    format_version: int = FORMAT_VERSION
    name: str
    replica: int = Field(ge=0)
    mapped_smiles: str
    inchikey: str
    charge: int
    level: str
    level_settings: dict[str, Any] = {}
    recipe: dict[str, Any] = {}
    versions: dict[str, str] = {}
    platform: dict[str, Any] = {}
    integrator: str
    ensemble: Literal["nve", "bussi", "langevin"]
    temperature_k: float = Field(gt=0)
    time_step_fs: float = Field(gt=0)
    licence: str = "CC-BY-4.0"

    @field_validator(
        "level_settings", "recipe", "software", "platform", "statistics", check_fields=False
    )
    @classmethod
    def _plain_json(cls, value: dict[str, Any]) -> dict[str, Any]:
        """What will be read back: no infinities, no tuples, no NumPy numbers."""
        try:
            return json.loads(json.dumps(value, allow_nan=False))
        except TypeError as error:
            raise ValueError(str(error)) from None

    def canonical_json(self) -> str:
        """One fixed text for one content: sorted keys, no spaces, floats that read back exactly."""
        content = self.model_dump(mode="json")
        return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)

    def checksum(self) -> str:
        """SHA-256 of `canonical_json`, hexadecimal."""
        return hashlib.sha256(self.canonical_json().encode()).hexdigest()


Metadata = TypeVar("Metadata", bound=FileMetadata)


def checked_metadata(
    kind: type[Metadata], content: Any, checksum: object, path: Path | str
) -> Metadata:
    """Make metadata of what was read.

    Args:
        kind: of metadata.
        content: its fields by name.
        checksum: as the file states it.
        path: the file, for messages.

    Raises:
        CorruptFile: a field is missing, of the wrong kind, unknown, or the checksum differs.
    """
    version = content.get("format_version") if isinstance(content, dict) else None
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise CorruptFile(
            f"{path}: format version {version} is newer than this program's {FORMAT_VERSION}; "
            "update tg80"
        )
    try:
        metadata = kind.model_validate(content)
        fits = metadata.checksum() == checksum  # it fails on text that is not UTF-8
    except ValidationError as error:
        raise CorruptFile(f"{path}: metadata field {first_fault(error)}") from None
    except (TypeError, ValueError, RecursionError) as error:
        raise CorruptFile(f"{path}: metadata cannot be read: {error}") from None
    if not fits:
        raise CorruptFile(f"{path}: the metadata does not match its own checksum")
    return metadata


class ShardMetadata(FileMetadata):
    """All that is not an array in one shard.

    `n_frames` is what the writer states; `tg80 validate` compares it with what is stored.
    `statistics` is what `tg80.shards.quality.Quality` found. `target_energy_ev` is the
    energy E* a mean-energy trajectory was scaled to, and `energy_source` says where it came from.
    """

    smiles: str
    formula: str
    bonds: tuple[tuple[int, int, float], ...]
    seed: int
    software: dict[str, Any] = {}
    store_every_fs: float = Field(gt=0)
    n_frames: int = Field(ge=1)
    length_fs: float = Field(ge=0)
    degrees_of_freedom: int = Field(ge=1)
    linear: bool
    start: Literal["mean-energy", "canonical"]
    target_energy_ev: float | None = None
    energy_source: str
    end: str
    statistics: dict[str, Any] = {}
    author: str = "not stated"

    def to_attributes(self) -> dict[str, str | int | float | bool]:
        """HDF5 attributes: scalars as they are, the rest as JSON; what is None is left out."""
        attributes: dict[str, str | int | float | bool] = {}
        for name, value in self.model_dump(mode="json").items():
            if isinstance(value, list | dict):
                value = json.dumps(value, sort_keys=True, allow_nan=False)
            if value is not None:
                attributes[name] = value
        attributes[CHECKSUM_ATTRIBUTE] = self.checksum()
        return attributes


def metadata_from_attributes(attributes: Mapping[str, Any], path) -> ShardMetadata:
    """Read back what `to_attributes` made.

    Args:
        attributes: attributes of `parameters/tg80`, as h5py gives them.
        path: the file, for messages.

    Raises:
        CorruptFile: a field is missing, of the wrong kind, unknown, or the checksum differs.
    """
    try:
        content = {name: _plain(value) for name, value in attributes.items()}
        for name in _JSON_FIELDS & content.keys():
            content[name] = json.loads(content[name])
    except (TypeError, ValueError, RecursionError) as error:
        raise CorruptFile(f"{path}: metadata cannot be read: {error}") from None
    return checked_metadata(ShardMetadata, content, content.pop(CHECKSUM_ATTRIBUTE, None), path)


_JSON_FIELDS = {
    name
    for name, info in ShardMetadata.model_fields.items()
    if any(word in str(info.annotation) for word in ("dict", "tuple"))
}


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode()
    return value.item() if isinstance(value, np.generic) else value
