"""The manifest of a published data set: which files there are, how large, and what they hold.

A publication is a folder that any web server can serve as it is:

    SITE/versions.json          the versions, newest last (the only file that ever changes)
    SITE/VERSION/manifest.json  schema `Manifest`: every other file of the version
    SITE/VERSION/...            shards by level, splits, file lists by fold, card, plots

A release in this repository is the folder of one version, `tg80/data/releases/NAME-VERSION`.

Hosts without folders get the files of a version under the names of `flat_path`, in one folder
with the manifest.

A manifest comes from outside: nothing in it is used before all of it is checked.
"""

import json
import re
from pathlib import PurePosixPath
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from tg80.dataset import RELEASE_MANIFEST as MANIFEST_NAME
from tg80.errors import CorruptFile

VERSIONS_NAME = "versions.json"
# What a download in progress adds to a file's name.
PART = ".part"
WRONG = ".wrong"
OWN_SUFFIXES = (PART, WRONG)
_PATH = re.compile(r"[A-Za-z0-9._/-]+")
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
# Windows keeps these names for its devices, with any ending.
_DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)
_LONGEST_NAME = 200


def check_version(version: str) -> str:
    """The version, if it can name a folder.

    Raises:
        ValueError: It cannot.
    """
    if not _VERSION.fullmatch(version):
        raise ValueError(
            f"version {version!r}: use up to 64 letters, digits, '.', '-' and '_', the first of "
            "them a letter or digit"
        )
    if version.endswith((".", ".json")):
        raise ValueError(f"version {version!r}: a folder's name does not end in '.' or '.json'")
    if _DEVICE.fullmatch(version):
        raise ValueError(f"version {version!r}: no folder on Windows has this name; choose another")
    return version


def _check_path(path: str) -> str:
    """The path, if it stays in the folder and can be a file's on every system."""
    parts = path.split("/")
    if not _PATH.fullmatch(path) or any(part in ("", ".", "..") for part in parts):
        raise ValueError(f"{path!r} is not a plain path below the folder")
    for name in parts:
        unsafe = name.startswith(".") or name.endswith((".", *OWN_SUFFIXES))
        if unsafe or _DEVICE.fullmatch(name) or len(name) > _LONGEST_NAME:
            raise ValueError(f"{path!r} cannot be a file name in every folder")
    return path


def _check_printable(text: str) -> str:
    if not text.isprintable() or '"' in text:
        raise ValueError(f"{text!r} contains non-printable characters or quotes")
    return text


_FolderName = Annotated[str, AfterValidator(check_version)]
_Path = Annotated[str, AfterValidator(_check_path)]
_Name = Annotated[str, AfterValidator(_check_printable)]
_Sha256 = Annotated[str, StringConstraints(pattern=r"\A[0-9a-f]{64}\z")]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class _Document(_Record):
    def to_json(self) -> str:
        """The text of the file."""
        return json.dumps(self.model_dump(mode="json"), indent=1) + "\n"

    @classmethod
    def parse(cls, text: bytes, source: str) -> Self:
        """Read the text of a file that came from `source`.

        Raises:
            CorruptFile: It is not a file of this kind, or something in it is not safe.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            reason = f"{where}: {first['msg']}" if where else first["msg"]
            raise CorruptFile(f"{source}: not a valid {cls.__name__.lower()}: {reason}") from None


class PublishedFile(_Record):
    """One file: its path below the version's folder, with `/`, its size and its SHA-256."""

    path: _Path
    n_bytes: int = Field(ge=0)
    sha256: _Sha256


class PublishedShard(PublishedFile):
    """One trajectory, and what a reader may choose it by."""

    molecule: _Name
    replica: int = Field(ge=0)
    smiles: str
    inchikey: str
    level: _Name
    n_frames: int = Field(ge=1)
    frame_fs: float = Field(gt=0)
    length_fs: float = Field(ge=0)
    ensemble: str
    licence: str


class Manifest(_Document):
    """All files of one version of one data set.

    Attributes:
        name: Of the data set; with the version it never means other bytes.
        version: Of the data.
        created: ISO date.
        licence: SPDX id of the data.
        split: Version of the split the folds are of; None without one.
        split_sha256: `tg80.splits.split.Split.sha256` of that split.
        shards: The trajectories.
        files: Everything else (splits, fold lists, card, plots).
    """

    format: Literal["tg80-manifest/1"] = "tg80-manifest/1"
    name: _Name
    version: _FolderName
    created: str
    licence: str
    split: str | None = None
    split_sha256: str | None = None
    shards: tuple[PublishedShard, ...]
    files: tuple[PublishedFile, ...] = ()

    @property
    def entries(self) -> tuple[PublishedFile, ...]:
        """Every file but the manifest itself."""
        return (*self.shards, *self.files)

    @model_validator(mode="after")
    def _every_path_once(self) -> "Manifest":
        seen: set[str] = set()
        for entry in self.entries:
            # File systems of users may not tell case apart.
            folded = entry.path.casefold()
            if folded in seen or folded == MANIFEST_NAME:
                raise ValueError(f"{entry.path!r} is listed twice")
            seen.add(folded)
        clash = {str(p) for path in seen for p in PurePosixPath(path).parents} & seen
        if clash:
            raise ValueError(f"{min(clash)!r} is both a file and a folder")
        return self


class VersionEntry(_Record):
    """A version and the SHA-256 of its `manifest.json`."""

    version: _FolderName
    manifest_sha256: _Sha256
    created: str


class Versions(_Document):
    """What `versions.json` holds, oldest version first."""

    format: Literal["tg80-versions/1"] = "tg80-versions/1"
    name: _Name
    versions: tuple[VersionEntry, ...]


def flat_path(path: str) -> str:
    """A path as a publication for hosts without folders has it; `--` occurs in no other name."""
    return path.replace("/", "--")
