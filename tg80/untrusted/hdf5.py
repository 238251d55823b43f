"""HDF5 files from strangers: opened only if they hold plain numbers and texts, and nothing outside.

An HDF5 file can point at other files (external and soft links, external storage, virtual datasets),
name filters that are libraries to load, hold references and Python objects, declare sizes that no
disk has, and run in circles. Damaged, it can make libhdf5 loop or crash. Everything of ours that
reads HDF5 opens it here: `open_hdf5` has the file looked at by another process first.
"""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
from h5py import h5, h5a, h5d, h5g, h5l, h5o, h5s, h5t, h5z  # pyright: ignore

from tg80.errors import CorruptFile, UserError
from tg80.files import check_regular, unreadable
from tg80.untrusted.apart import run_apart

MOST_BYTES = 64 << 20
"""Unpacked, of a whole file of any size; larger files may unpack to `MOST_GROWTH` times theirs."""
MOST_GROWTH = 20
MOST_CHUNK_BYTES = 64 << 20
MOST_LINKS = 1000
MOST_DEPTH = 12
MOST_ATTRIBUTES = 200
MOST_ATTRIBUTE_BYTES = 1 << 20
MOST_TEXT_BYTES = 4096
"""Of a text in a dataset."""
_FILTERS = {h5z.FILTER_DEFLATE, h5z.FILTER_SHUFFLE, h5z.FILTER_FLETCHER32}
_SUM_BYTES = 4  # what fletcher32 adds
_NUMBERS = {h5t.INTEGER, h5t.FLOAT}
_SHIPPED = Path(__file__).parents[1] / "data"

_Key = tuple[int, ...]
_seen: set[_Key] = set()  # files that were found safe, as they were then


def open_hdf5(path: Path | str) -> h5py.File:
    """Open a file for reading once another process went through its structure and attributes.

    That process can be stopped where libhdf5 loops or crashes. Nothing is asked twice of a file
    that did not change since, nor of those that ship with this package.

    Raises:
        UserError: there is no such file, no right to read it, or a program is writing it.
        CorruptFile: it is damaged, or holds what no file of ours does.
    """
    path = Path(path)
    check_regular(path, "an HDF5 file")
    key = _key(path.stat())
    if key not in _seen:
        if not path.resolve().is_relative_to(_SHIPPED):
            run_apart("tg80.untrusted.hdf5:inspect", str(path), seconds=2 + key[2] // 100_000_000)
        _seen.add(key)
    return _open(path)


def inspect(path: Path | str) -> None:
    """Go through a file's structure and attributes in this process.

    Raises:
        UserError, CorruptFile: as `open_hdf5`.
    """
    with inspected(path):
        pass


@contextmanager
def inspected(path: Path | str) -> Iterator[h5py.File]:
    """A file open for reading, gone through in this process: for those that may be stopped.

    Raises:
        UserError, CorruptFile: as `open_hdf5`.
    """
    path = Path(path)
    check_regular(path, "an HDF5 file")
    with _open(path) as file:
        try:
            _Inspection(file, path.stat().st_size).run()
        except CorruptFile as error:
            raise CorruptFile(f"{path}: {error}; {ANEW}") from None
        except DAMAGE as error:
            raise CorruptFile(f"{path}: damaged, HDF5 says: {first_line(error)}; {ANEW}") from None
        yield file


ANEW = "get it or write it anew"
DAMAGE = (OSError, RuntimeError, ValueError, KeyError, TypeError, OverflowError, zlib.error)


def first_line(error: BaseException) -> str:
    """What an exception says, in one line."""
    return (str(error).strip("'\"").splitlines() or [type(error).__name__])[0]


def _key(facts: os.stat_result) -> _Key:
    return facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns


def _open(path: Path) -> h5py.File:
    try:
        return h5py.File(path, "r")
    except (OSError, RuntimeError, ValueError) as error:
        text = str(error)
        if "unable to lock" in text or "already open for write" in text:
            raise UserError(
                f"{path}: locked: another program has it open for writing, or did not close it; "
                "wait for it or close it"
            ) from None
        if isinstance(error, OSError) and error.errno:
            raise unreadable(path, error) from None
        if "truncated" in text:
            why = "cut short: the end of the file is missing"
        elif "signature not found" in text:
            why = "not an HDF5 file"
        else:
            why = f"damaged, HDF5 cannot open it: {first_line(error)}"
        raise CorruptFile(f"{path}: {why}; {ANEW}") from None


class _Inspection:
    """One walk through a file by hard links, every object once."""

    def __init__(self, file: h5py.File, n_bytes: int) -> None:
        self._root = h5g.open(file.id, b"/")
        self._n_bytes = n_bytes
        self._left = max(MOST_BYTES, MOST_GROWTH * n_bytes)
        self._n_links = 0
        self._objects: set[int] = set()

    def run(self) -> None:
        """Raise CorruptFile, without the file's name, or what h5py raises on damage."""
        self._objects.add(h5o.get_info(self._root).addr)
        self._visit_group(self._root, "", MOST_DEPTH)

    def _visit_group(self, group: h5g.GroupID, where: str, depth: int) -> None:
        self._check_attributes(group, where)
        if depth == 0:
            raise CorruptFile(f"groups are nested deeper than {MOST_DEPTH}; no file of ours is so")
        for name, link_type in self._links(group):
            inside = f"{where}/{name.decode(errors='backslashreplace')}".lstrip("/")
            _check_link(group, name, link_type, inside)
            item = h5o.open(group, name)
            address = h5o.get_info(item).addr
            is_known = address in self._objects
            self._objects.add(address)
            if isinstance(item, h5d.DatasetID):
                if not is_known:
                    self._check_dataset(item, inside)
                    self._check_attributes(item, inside)
            elif not isinstance(item, h5g.GroupID):
                raise CorruptFile(f"{inside!r} is a stored type, neither a dataset nor a group")
            elif is_known:
                raise CorruptFile(f"{inside!r} is a group that is there under another name")
            else:
                self._visit_group(item, inside, depth - 1)

    def _links(self, group: h5g.GroupID) -> list[tuple[bytes, int]]:
        """Names and types of links."""
        found: list[tuple[bytes, int]] = []

        def add(name: bytes, info: h5l.LinkInfo) -> bool:
            found.append((name, info.type))  # h5py gives the same object for all of them
            return len(found) + self._n_links > MOST_LINKS

        group.links.iterate(add, info=True, idx_type=h5.INDEX_NAME)
        self._n_links += len(found)
        if self._n_links > MOST_LINKS:
            raise CorruptFile(f"holds more than {MOST_LINKS} objects; no file of ours does")
        return found

    def _check_dataset(self, dataset: h5d.DatasetID, name: str) -> None:
        plist = dataset.get_create_plist()  # before the shape: asked for it, HDF5 opens other files
        if plist.get_layout() == h5d.VIRTUAL:
            raise CorruptFile(f"{name!r} is a virtual dataset, a view of other files")
        if plist.get_external_count():
            raise CorruptFile(f"the values of {name!r} lie in another file")
        itemsize = _plain_size(dataset.get_type(), name)
        unpacked = _count(dataset.get_space()) * itemsize
        self._left -= unpacked
        if self._left < 0:
            raise CorruptFile(
                f"{name!r} declares {unpacked} bytes, shape {dataset.shape}, in a file of "
                f"{self._n_bytes}; no file of ours is like that"
            )
        if plist.get_layout() == h5d.CHUNKED:
            self._check_chunks(dataset, plist, itemsize, name)
        elif plist.get_layout() == h5d.CONTIGUOUS and (start := dataset.get_offset()) is not None:
            self._check_place(start, unpacked, name)

    def _check_chunks(
        self, dataset: h5d.DatasetID, plist: h5py.h5p.PropDCID, itemsize: int, name: str
    ) -> None:
        chunk_bytes = math.prod(plist.get_chunk()) * itemsize
        if chunk_bytes > MOST_CHUNK_BYTES:
            raise CorruptFile(f"{name!r} has chunks of {chunk_bytes} bytes, too large ones")
        codes = [plist.get_filter(i)[0] for i in range(plist.get_nfilters())]
        if strange := set(codes) - _FILTERS:
            raise CorruptFile(f"{name!r} is packed by filter {min(strange)}, neither gzip nor none")
        if len(codes) > len(set(codes)):
            raise CorruptFile(f"{name!r} is packed twice by one filter")
        dataset.chunk_iter(lambda chunk: self._check_place(chunk.byte_offset, chunk.size, name))

    def _check_place(self, start: int, n_bytes: int, name: str) -> None:
        if start + n_bytes > self._n_bytes:
            raise CorruptFile(f"the values of {name!r} lie behind the end of the file: cut short")

    def _check_attributes(self, owner: h5g.GroupID | h5d.DatasetID, where: str) -> None:
        shown = where or "the file"
        n_attributes = h5a.get_num_attrs(owner)
        if n_attributes > MOST_ATTRIBUTES:
            raise CorruptFile(f"{shown} has {n_attributes} attributes; no file of ours has so many")
        for index in range(n_attributes):
            attribute = h5a.open(owner, index=index)
            name = f"{attribute.name.decode(errors='backslashreplace')!r} of {shown}"
            kind, n_values = attribute.get_type(), _count(attribute.get_space())
            is_text = isinstance(kind, h5t.TypeStringID)
            size = kind.get_size() if is_text else _plain_size(kind, f"attribute {name}")
            if n_values * size > MOST_ATTRIBUTE_BYTES:
                raise CorruptFile(f"attribute {name} has {n_values * size} bytes; none of ours has")
            if is_text and kind.is_variable_str():
                _read_texts(attribute, name)


def check_values(dataset: h5py.Group | h5py.Dataset | h5py.Datatype) -> None:
    """Refuse packed values that unpack to more or less than is declared; call it before reading.

    HDF5 unpacks whatever comes: of a bomb all, and where too little comes it gives what lies in
    memory behind it.

    Raises:
        ValueError: as said, or it is not a dataset; without the file's name.
    """
    if not isinstance(dataset, h5py.Dataset):
        raise ValueError(f"{dataset.name} is not a dataset")
    stored, plist = dataset.id, dataset.id.get_create_plist()
    if plist.get_layout() != h5d.CHUNKED:
        return
    n_bytes = math.prod(plist.get_chunk()) * stored.get_type().get_size()
    codes = [plist.get_filter(i)[0] for i in range(plist.get_nfilters())]
    chunks: list[h5d.StoreInfo] = []
    stored.chunk_iter(chunks.append)
    for chunk in chunks:
        used = {code for bit, code in enumerate(codes) if not chunk.filter_mask >> bit & 1}
        wanted = n_bytes + _SUM_BYTES * (h5z.FILTER_FLETCHER32 in used)
        found = chunk.size
        if h5z.FILTER_DEFLATE in used:
            inflater = zlib.decompressobj()
            content = stored.read_direct_chunk(chunk.chunk_offset)[1]
            # The sum may lie within what is packed, or behind it.
            found = len(inflater.decompress(content, wanted + 1)) + len(inflater.unused_data)
        if found != wanted:
            raise ValueError(f"a chunk of {dataset.name} does not unpack to {n_bytes} bytes")


def _check_link(group: h5g.GroupID, name: bytes, link_type: int, shown: str) -> None:
    if link_type == h5l.TYPE_EXTERNAL:
        target = group.links.get_val(name)[0].decode(errors="backslashreplace")
        raise CorruptFile(
            f"{shown!r} is a link to another file ({target!r}), which is not followed"
        )
    if link_type != h5l.TYPE_HARD:
        raise CorruptFile(f"{shown!r} is a soft link, which is not followed")
    if b"/" in name or name == b".":
        raise CorruptFile(f"{shown!r} is not the name of an object")


def _plain_size(kind: h5t.TypeID, name: str) -> int:
    """Bytes of one value: a number of at most 8 bytes, true or false, or a short text."""
    code, size = kind.get_class(), kind.get_size()
    is_number = code in _NUMBERS and size <= 8
    is_truth = isinstance(kind, h5t.TypeEnumID) and size == 1
    is_text = isinstance(kind, h5t.TypeStringID) and not kind.is_variable_str()
    if is_number or is_truth or (is_text and size <= MOST_TEXT_BYTES):
        return size
    raise CorruptFile(
        f"{name!r} holds values of {size} bytes of another type (HDF5 class {code}); only plain "
        "numbers and short texts are read"
    )


def _count(space: h5s.SpaceID) -> int:
    return math.prod(space.shape) if space.get_simple_extent_type() == h5s.SIMPLE else 1


def _read_texts(attribute: h5a.AttrID, name: str) -> None:
    """Read texts of varying length: their size is told nowhere before, and they lie elsewhere."""
    values: np.ndarray = np.empty(attribute.shape, dtype=attribute.dtype)
    attribute.read(values)
    if sum(map(len, filter(None, values.flat))) > MOST_ATTRIBUTE_BYTES:
        raise CorruptFile(f"attribute {name} has more than {MOST_ATTRIBUTE_BYTES} bytes")
