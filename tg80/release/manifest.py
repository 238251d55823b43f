"""The catalogue of a published data set: which files there are, how large, and what they hold.

A publication is a folder that any web server can serve as it is:

    SITE/versions.json          the versions, newest last (the only file that ever changes)
    SITE/VERSION/manifest.json  schema `Manifest`: every other file of the version
    SITE/VERSION/...            shards by level, splits, file lists by fold, card, plots

Hosts without folders get the files of a version under the names of `flat_path`, in one folder
with the manifest.

A manifest comes from outside: it is checked as such before anything in it is used.
"""

import json
import re
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from tg80.errors import CorruptFile

MANIFEST_NAME = "manifest.json"
VERSIONS_NAME = "versions.json"
_HEX = re.compile(r"[0-9a-f]{64}")
_PATH = re.compile(r"[A-Za-z0-9._/-]+")
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")

# Windows keeps these names for its devices, with any ending.
_DEVICES = {
    "CON",
    "PRN",
    "AUX",
    "NUL",
    *(f"{port}{n}" for port in ("COM", "LPT") for n in range(10)),
}


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class PublishedFile(_Record):
    """One file: its path below the version's folder, with `/`, its size and its SHA-256."""

    path: str
    n_bytes: int = Field(ge=0)
    sha256: str

    @field_validator("path")
    @classmethod
    def _stays_inside(cls, path: str) -> str:
        parts = path.split("/")
        if not _PATH.fullmatch(path) or any(part in ("", ".", "..") for part in parts):
            raise ValueError(f"{path!r} is no plain path below the folder")
        return path

    @field_validator("sha256")
    @classmethod
    def _is_a_digest(cls, digest: str) -> str:
        if not _HEX.fullmatch(digest):
            raise ValueError(f"{digest!r} is no SHA-256")
        return digest


class PublishedShard(PublishedFile):
    """One trajectory, and what a reader may choose it by."""

    molecule: str
    replica: int = Field(ge=0)
    smiles: str
    inchikey: str
    level: str
    n_frames: int = Field(ge=1)
    frame_fs: float = Field(gt=0)
    length_fs: float = Field(ge=0)
    ensemble: str
    licence: str


class Manifest(_Record):
    """All files of one version of one data set.

    Attributes:
        name, version: of the publication; together they never mean other bytes.
        created: ISO date. licence: SPDX id of the data.
        split: version of the split the folds are of, None without one.
        split_sha256: `tg80.splits.split.Split.sha256` of that split.
        shards: the trajectories.
        files: everything else (splits, fold lists, card, plots).
    """

    format: Literal["tg80-manifest/1"] = "tg80-manifest/1"
    name: str
    version: str
    created: str
    licence: str
    split: str | None = None
    split_sha256: str | None = None
    shards: tuple[PublishedShard, ...]
    files: tuple[PublishedFile, ...] = ()

    @field_validator("version")
    @classmethod
    def _is_a_folder_name(cls, version: str) -> str:
        return check_version(version)

    @model_validator(mode="after")
    def _every_path_once(self) -> "Manifest":
        seen: set[str] = set()
        for entry in (*self.shards, *self.files):
            # File systems of users may not tell case apart.
            folded = entry.path.casefold()
            if folded in seen or folded == MANIFEST_NAME:
                raise ValueError(f"{entry.path!r} is listed twice")
            seen.add(folded)
        clash = {str(p) for path in seen for p in PurePosixPath(path).parents} & seen
        if clash:
            raise ValueError(f"{min(clash)!r} is both a file and a folder")
        return self

    def to_json(self) -> str:
        """The text of the file."""
        return json.dumps(self.model_dump(mode="json"), indent=1) + "\n"


class VersionEntry(_Record):
    """A version and the SHA-256 of its `manifest.json`."""

    version: str
    manifest_sha256: str
    created: str

    @field_validator("version")
    @classmethod
    def _is_a_folder_name(cls, version: str) -> str:
        return check_version(version)

    @field_validator("manifest_sha256")
    @classmethod
    def _is_a_digest(cls, digest: str) -> str:
        if not _HEX.fullmatch(digest):
            raise ValueError(f"{digest!r} is no SHA-256")
        return digest


class Versions(_Record):
    """What `versions.json` holds, oldest version first."""

    format: Literal["tg80-versions/1"] = "tg80-versions/1"
    name: str
    versions: tuple[VersionEntry, ...]

    def to_json(self) -> str:
        """The text of the file."""
        return json.dumps(self.model_dump(mode="json"), indent=1) + "\n"


def check_version(version: str) -> str:
    """The version, if it can name a folder.

    Raises:
        ValueError: it can't.
    """
    if not _VERSION.fullmatch(version) or len(version) > 64:
        raise ValueError(
            f"version {version!r}: use up to 64 letters, digits, '.', '-' and '_', the first of "
            "them a letter or digit"
        )
    if version.endswith((".", ".json")):
        raise ValueError(f"version {version!r}: ends like no folder; leave '.' or '.json' out")
    if version.split(".")[0].upper() in _DEVICES:
        raise ValueError(f"version {version!r}: is no folder name on Windows; choose another")
    return version


def flat_path(path: str) -> str:
    """A path as a publication for hosts without folders has it; `--` occurs in no other name."""
    return path.replace("/", "--")


def read_manifest(text: bytes | str, source: str) -> Manifest:
    """Parse a manifest that came from `source`.

    Raises:
        CorruptFile: it is no manifest, or has a path that leaves the folder.
    """
    return _parse(Manifest, text, source)


def read_versions(text: bytes | str, source: str) -> Versions:
    """Parse a `versions.json` that came from `source`.

    Raises:
        CorruptFile: it is none.
    """
    return _parse(Versions, text, source)


def _parse(kind, text, source):
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        reason = f"{where}: {first['msg']}" if where else first["msg"]
        raise CorruptFile(f"{source}: not a valid {kind.__name__.lower()}: {reason}") from None


def total_bytes(files: Iterable[PublishedFile]) -> int:
    """Sum of the sizes."""
    return sum(entry.n_bytes for entry in files)
