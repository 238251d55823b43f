"""HDF5 files from strangers: nothing outside the file is opened, and nothing large is read unasked.

An HDF5 file can point at other files (external links, external storage, virtual datasets), hold
references and Python objects, declare sizes that no disk has, and name filters that are libraries.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from tg80.errors import UserError

MOST_NUMBERS = 50_000_000
"""Of one array; 400 MB as float64. The largest template has a hundredth of it."""
MOST_BYTES = 1 << 30
# Deflate, shuffle, fletcher32, and the one that comes with h5py: any other would load a library.
_FILTERS = {1, 2, 3, 32000}


@contextmanager
def reading(path: Path, shown: Path) -> Iterator[h5py.File]:
    """An HDF5 file, open for reading; messages call it `shown`.

    Raises:
        UserError: it is not there, not HDF5, cut short, too large, or damaged where it is read.
    """
    check_file(path, shown)
    if not h5py.is_hdf5(path):
        raise UserError(f"{shown}: not an HDF5 file; send the template itself, filled in")
    try:
        file = h5py.File(path, "r")
    except (OSError, RuntimeError) as error:
        if "truncated" in str(error):
            reason = "cut short: the end of the file is missing; copy it again"
        elif "lock" in str(error) or "already open" in str(error):
            reason = "open elsewhere, or not closed when it was written; close it first"
        else:
            reason = "damaged, HDF5 cannot open it; copy it again"
        raise UserError(f"{shown}: {reason}") from error
    with file:
        try:
            yield file
        except (OSError, RuntimeError, ValueError, KeyError, TypeError, OverflowError) as error:
            detail = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(f"{shown}: damaged, HDF5 says: {detail}; copy it again") from error


def check_file(path: Path, shown: Path) -> None:
    """Refuse what is no file of a size that a submission can have.

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
    file: h5py.File, path: Path, datasets: set[str], groups: set[str]
) -> dict[str, h5py.Dataset]:
    """The datasets by name, whose values lie in this file.

    Raises:
        UserError: links to elsewhere, objects that no template has, or missing ones.
    """
    for name in file:
        _check_link(file, path, str(name))
    unknown = sorted(set(file) - datasets - groups)
    if unknown:
        raise UserError(f"{path}: holds {unknown[0]!r}, which no template has; remove it")
    found: dict[str, h5py.Dataset] = {}
    for name in sorted(datasets | groups):
        kind = "dataset" if name in datasets else "group"
        if name not in file:
            raise UserError(f"{path}: {kind} {name!r} is missing; begin with the template again")
        member = file[name]
        if isinstance(member, h5py.Dataset) and name in datasets:
            _check_storage(member, name, path)
            found[name] = member
        elif not isinstance(member, h5py.Group) or name in datasets:
            raise UserError(f"{path}: {name!r} is no {kind}; begin with the template again")
        elif len(member):
            raise UserError(f"{path}: group {name!r} holds objects; it takes attributes alone")
    return found


def _check_link(file: h5py.File, path: Path, name: str) -> None:
    try:
        link = file.get(name, getlink=True)
    except TypeError:
        link = None
    if isinstance(link, h5py.ExternalLink):
        raise UserError(
            f"{path}: {name!r} is a link to another file ({link.filename!r}), which is not "
            "followed; copy the values into this file"
        )
    if not isinstance(link, h5py.HardLink):
        raise UserError(f"{path}: {name!r} is a soft link; write a dataset of that name")


def _check_storage(dataset: h5py.Dataset, name: str, path: Path) -> None:
    """Refuse datasets whose values lie elsewhere, and those that take a library to unpack."""
    plist = dataset.id.get_create_plist()
    if dataset.is_virtual:
        raise UserError(f"{path}: {name!r} is a virtual dataset, a view of other files; copy it")
    if plist.get_external_count():
        raise UserError(f"{path}: the values of {name!r} lie in another file; copy them into this")
    if dataset.chunks and np.prod([float(n) for n in dataset.chunks]) > MOST_NUMBERS:
        raise UserError(f"{path}: {name!r} has chunks of {dataset.chunks}; use smaller ones")
    filters = {plist.get_filter(i)[0] for i in range(plist.get_nfilters())}
    if filters - _FILTERS:
        raise UserError(
            f"{path}: {name!r} is packed by filter {min(filters - _FILTERS)}; use gzip, or none"
        )


def read_values(dataset: h5py.Dataset, name: str, path: Path) -> np.ndarray:
    """All values of a checked dataset.

    Raises:
        UserError: more values than can be meant.
    """
    numbers = int(np.prod([int(n) for n in dataset.shape], dtype=object)) if dataset.shape else 1
    if numbers * max(1, dataset.dtype.itemsize // 8) > MOST_NUMBERS:
        raise UserError(
            f"{path}: {name!r} declares {numbers} values, shape "
            f"{dataset.shape}; no template is as large"
        )
    return np.asarray(dataset[()])


def read_attribute(
    owner: h5py.Group | h5py.Dataset | h5py.Datatype, name: str, path: Path
) -> str | int | float | None:
    """A text or a number, None where there is no such attribute.

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
    raise UserError(f"{path}: attribute {name!r} of {where} is neither a text nor a number")
