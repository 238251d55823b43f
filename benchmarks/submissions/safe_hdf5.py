"""Filled templates as HDF5 files: the datasets and attributes that one holds, and no others.

What any HDF5 file from a stranger may not hold is refused before, by `tg80.untrusted.hdf5`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from tg80.errors import CorruptFile, UserError
from tg80.untrusted.hdf5 import ANEW, DAMAGE, check_values, first_line, inspected

MOST_BYTES = 1 << 30


@contextmanager
def errors_of(shown: Path) -> Iterator[None]:
    """Put the name of the file in front of what is wrong with it."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{shown}: {error}") from error


@contextmanager
def reading(path: Path, shown: Path) -> Iterator[h5py.File]:
    """Open an HDF5 file for reading; messages call it `shown`.

    Raises:
        UserError: it is not there, not HDF5, cut short, too large, or damaged where it is read.
    """
    check_file(path, shown)
    try:
        with inspected(path) as file, errors_of(shown):
            yield file
    except CorruptFile as error:
        raise UserError(f"{shown}: {str(error).removeprefix(f'{path}: ')}") from error
    except DAMAGE as error:
        detail = f"damaged, HDF5 says: {first_line(error)}"
        raise UserError(f"{shown}: {detail}; {ANEW}") from error


def check_file(path: Path, shown: Path) -> None:
    """Refuse what is not a file, or larger than a submission can be.

    Raises:
        UserError: nothing there, a folder, an empty file, a file too large, or no right to read it.
    """
    if not path.is_file():
        what = "a folder, not a file" if path.is_dir() else "no such file"
        raise UserError(f"{shown}: {what}; name the file that was filled in")
    size = path.stat().st_size
    if size == 0:
        raise UserError(f"{shown}: empty, 0 bytes; the copy failed, copy it again")
    if size > MOST_BYTES:
        raise UserError(f"{shown}: {size} bytes, more than {MOST_BYTES}; no submission is as large")
    try:
        path.open("rb").close()
    except OSError as error:
        raise UserError(f"{shown}: cannot be read ({error.strerror}); check its rights") from None


def checked_datasets(
    file: h5py.File, datasets: set[str], groups: set[str]
) -> dict[str, h5py.Dataset]:
    """Look the datasets up by name.

    Raises:
        UserError: objects that no template has, or missing ones.
    """
    unknown = sorted(set(file) - datasets - groups)
    if unknown:
        raise UserError(f"holds {unknown[0]!r}, which no template has; remove it")
    found: dict[str, h5py.Dataset] = {}
    for name in sorted(datasets | groups):
        kind = "dataset" if name in datasets else "group"
        if name not in file:
            raise UserError(f"{kind} {name!r} is missing; begin with the template again")
        member = file[name]
        if isinstance(member, h5py.Dataset) and name in datasets:
            found[name] = member
        elif not isinstance(member, h5py.Group) or name in datasets:
            raise UserError(f"{name!r} is not a {kind}; begin with the template again")
        elif len(member):
            raise UserError(f"group {name!r} holds objects; it takes attributes alone")
    return found


def read_values(dataset: h5py.Dataset) -> np.ndarray:
    """Read all values of a dataset.

    Raises:
        ValueError: it unpacks to more or less than it declares.
    """
    check_values(dataset)
    return np.asarray(dataset[()])


def read_attribute(
    owner: h5py.Group | h5py.Dataset | h5py.Datatype, name: str
) -> str | int | float | None:
    """Read a text or a number, None where there is no such attribute.

    Raises:
        UserError: it is neither.
    """
    if name not in owner.attrs:
        return None
    stored = owner.attrs.get_id(name)
    value = owner.attrs[name] if stored.shape == () and stored.dtype.kind in "OSiufb" else None
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, str):
        return str(value)
    if isinstance(value, np.number | np.bool_):
        return value.item()
    where = str(owner.name).lstrip("/") or "the file"
    raise UserError(f"attribute {name!r} of {where} is neither a text nor a number")
