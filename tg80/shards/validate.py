"""Is this file what it says it is? `validate(path)` gives a list of problems, empty if none.

The checks go from the outside in and stop where going on would make no sense: checksum, structure
and schema, then (in `tg80.shards.checks.content`) metadata and the frames themselves. Physics is
judged from the stored arrays; the statistics a file states about itself are compared, not believed.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from tg80.errors import CorruptFile, Tg80Error
from tg80.files import checksum_path, data_folders, file_sha256, find_files, verify
from tg80.shards.checks.content import check_content
from tg80.shards.checks.evidence import Evidence
from tg80.shards.fields import (
    ALL_FIELDS,
    AXIS_FIELDS,
    FRAME_FIELDS,
    LEARNED_FIELDS,
    OBSERVABLES,
    PARAMETERS,
    TRAJECTORY,
    Field,
)
from tg80.shards.problems import Findings, Problem
from tg80.shards.shard import SUFFIX, Shard, expected_shape, named_errors
from tg80.shards.twins import SUFFIX as TWINS_SUFFIX
from tg80.shards.twins import read_twins


def files_to_check(path: Path | str) -> list[Path]:
    """The shards and files of twins that `validate` looks at.

    Raises:
        UserError: there is no such path, or none of them in the tree.
    """
    return find_files(path, (SUFFIX, TWINS_SUFFIX), must_be_files=False)


def validate(path: Path | str) -> list[Problem]:
    """Check one file, or every shard and file of twins in a folder and what lies beside them.

    Args:
        path: an `.h5md` or `-twins.h5` file, a folder, or a tree that holds them further down.

    Returns:
        Problems in the order found; `error` means the data are not to be used.

    Raises:
        UserError: there is no such file or folder, or nothing to check in it.
    """
    path = Path(path)
    files = files_to_check(path)
    problems = []
    if path.is_dir():
        is_tree = all(file.parent != path for file in files)
        for folder in data_folders(path) if is_tree else [path]:
            problems += _leftovers(folder)
    for file in files:
        problems += examine(file).problems
    return problems


@dataclass(frozen=True)
class Examined:
    """One file that was checked.

    Attributes:
        problems: What was found.
        sha256: Of the file, taken before it was read; "" if it could not be.
        evidence: What was read of a shard; None for twins or an unreadable file.
    """

    problems: list[Problem]
    sha256: str
    evidence: Evidence | None


def examine(path: Path) -> Examined:
    """Check one file; that it cannot be read is a problem too, and never raised."""
    found, sha256, evidence = Findings(path), "", None
    try:
        sha256 = _check_checksum(found)
        # A file that is not what its checksum says is not opened: damaged HDF5 can do anything.
        if not found.has_errors:
            if path.name.endswith(TWINS_SUFFIX):
                _check_twins(found)
            else:
                evidence = _check_shard(found)
    except Tg80Error as error:
        found.error("readable", str(error).removeprefix(f"{path}: "))
    except OSError as error:
        found.error("readable", error.strerror or str(error))
    except Exception as error:
        # Whatever a damaged file leads to, the others are still to be checked.
        what = f"{type(error).__name__}: {error}".splitlines()[0]
        found.error("readable", f"holds what cannot be judged ({what}); get it again")
    return Examined(found.problems, sha256, evidence)


def _leftovers(folder: Path) -> list[Problem]:
    """Files an interrupted run left: temporary ones, parts, checksums without their file."""
    problems = []
    for entry in sorted(folder.iterdir()):
        message = None
        if entry.suffix == ".tmp" and (SUFFIX in entry.name or TWINS_SUFFIX in entry.name):
            message = "half-written file of an interrupted run; remove it"
        elif entry.name.startswith("part-") and entry.suffix == ".npz":
            message = "part file of an unfinished trajectory; run `tg80 collect`"
        elif entry.name.endswith(_CHECKSUM_SUFFIXES) and not entry.with_suffix("").exists():
            message = "checksum of a file that is not there; download it again or remove this"
        if message:
            problems.append(Problem("warning", str(entry), "leftovers", message))
    return problems


_CHECKSUM_SUFFIXES = (f"{SUFFIX}.sha256", f"{TWINS_SUFFIX}.sha256")


def _check_twins(found: Findings) -> None:
    """Twins carry their checksum, shapes and metadata; what is left is that the numbers are some.

    They have no drift of their own to judge: they are reruns of a shard that was judged.
    """
    twins = read_twins(found.path)
    stem = f"{twins.metadata.name}-r{twins.metadata.replica}"
    if found.path.name != f"{stem}{TWINS_SUFFIX}":
        found.warning("name", f"the file holds twins of {stem}, but is called {found.path.name}")
    for name in ("positions", "times_fs", "start_velocities", "start_energies"):
        if not np.all(np.isfinite(getattr(twins, name))):
            found.error("finite", f"{name} holds values that are no finite numbers")
    if np.any(np.diff(twins.times_fs) <= 0):
        found.error("times", "the times of the frames do not grow")


def _check_shard(found: Findings) -> Evidence | None:
    with Shard(found.path) as shard:
        with named_errors(found.path):
            _visit_everything(shard.file)
            _check_structure(shard.file, found)
            _check_schema(shard, found)
        metadata = shard.metadata
        return None if found.has_errors else check_content(shard, metadata, found)


def _check_checksum(found: Findings) -> str:
    """The SHA-256 of the file, compared with the one beside it."""
    beside = checksum_path(found.path)
    if not os.path.lexists(beside):
        found.warning("checksum", f"no {beside.name} beside it; alterations cannot be told")
        return file_sha256(found.path)
    try:
        return verify(found.path)
    except CorruptFile as error:
        found.error("checksum", str(error).removeprefix(f"{found.path}: "))
        return ""


def _visit_everything(file: h5py.File) -> None:
    """Read every object's header and attributes: HDF5 checks its checksums as it does."""

    def visit(_name: str, item: h5py.Group | h5py.Dataset) -> None:
        dict(item.attrs)

    file.visititems(visit)


def _check_structure(file: h5py.File, found: Findings) -> None:
    """The parts of H5MD that no field of ours stands for."""
    version = _attribute(file, "h5md", "version")
    if not np.array_equal(version, [1, 1]):
        found.error("structure", f"h5md version is {version}, not 1.1")
    for group, name in (("author", "name"), ("creator", "name"), ("creator", "version")):
        if not isinstance(_attribute(file, f"h5md/{group}", name), str):
            found.error("structure", f"h5md/{group} has no {name}")
    dimension, boundary = (_attribute(file, f"{TRAJECTORY}/box", n) for n in _BOX)
    if dimension != 3 or not np.array_equal(np.asarray(boundary, dtype=str), ["none"] * 3):
        found.error("structure", "the box is not of 3 dimensions with boundary none")
    names: list[str] = []
    file.visit(names.append)
    for name in sorted(set(names) - _known_paths()):
        if not name.startswith(f"{PARAMETERS}/"):  # `_check_schema` warns of these
            found.error("structure", f"{name} is not part of the format")
    for field in (*FRAME_FIELDS, *_learned_fields(file)):
        for axis in AXIS_FIELDS:
            linked, original = file.get(f"{field.path}/{axis.name}"), file.get(axis.path)
            if linked is None or original is None or linked != original:
                found.error("structure", f"{field.path}/{axis.name} is no hard link to the first")


def _learned_fields(file: h5py.File) -> tuple[Field, ...]:
    """The further fields of `learned`: all of them or none, old files without `evaluated`."""
    found = [field for field in LEARNED_FIELDS if field.path in file]
    return tuple(f for f in LEARNED_FIELDS if found and (f in found or f.name != "evaluated"))


_BOX = ("dimension", "boundary")


def _known_paths() -> set[str]:
    """Every group and data set that the format has."""
    ends = {f"h5md/{name}" for name in ("author", "creator", "modules/units")}
    ends |= {f"{TRAJECTORY}/box", OBSERVABLES, PARAMETERS}
    ends |= {field.dataset_path for field in (*ALL_FIELDS, *LEARNED_FIELDS)}
    series = (*FRAME_FIELDS, *LEARNED_FIELDS)
    ends |= {f"{field.path}/{axis.name}" for field in series for axis in AXIS_FIELDS}
    parents = {"/".join(end.split("/")[:n]) for end in ends for n in range(1, end.count("/") + 1)}
    return ends | parents


def _check_schema(shard: Shard, found: Findings) -> None:
    """Every field is there with its shape, dtype and unit."""
    file = shard.file
    positions = file.get(f"{TRAJECTORY}/position/value")
    if not isinstance(positions, h5py.Dataset) or positions.ndim != 3:
        found.error("schema", "there are no positions of shape (n_frames, n_atoms, 3)")
        return
    n_frames, n_atoms = positions.shape[:2]
    for field in (*ALL_FIELDS, *_learned_fields(file)):
        path = field.dataset_path
        dataset = file.get(path)
        if not isinstance(dataset, h5py.Dataset):
            found.error("schema", f"{path} is missing")
            continue
        shape = expected_shape(field, n_frames, n_atoms)
        if dataset.shape != shape:
            found.error("schema", f"{path} has shape {dataset.shape}, not {shape}")
        if dataset.dtype != np.dtype(field.dtype):
            found.error("schema", f"{path} is {dataset.dtype}, not {np.dtype(field.dtype)}")
        unit = dataset.attrs.get("unit")
        if unit != field.disk_unit:
            found.error("units", f"unit of {path} is {unit}, not {field.disk_unit}")
        elif unit is not None:
            kind = h5py.check_string_dtype(dataset.attrs.get_id("unit").dtype)
            if kind is None or kind.length is not None:
                found.error("units", f"unit of {path} is no variable-length string: readers differ")
    parameters = file.get(PARAMETERS)
    for name in parameters if isinstance(parameters, h5py.Group) else ():
        if f"{PARAMETERS}/{name}" not in _known_paths():
            found.warning("schema", f"{PARAMETERS}/{name} is no field of the format")


def _attribute(file: h5py.File, path: str, name: str) -> Any:
    item = file.get(path)
    return item.attrs.get(name) if isinstance(item, h5py.Group | h5py.Dataset) else None
