"""Shards that somebody made to do harm: each entry spoils a copy of a good one in its own way."""

import os
import zlib
from pathlib import Path

import h5py
import numpy as np
from h5py import h5d, h5p, h5s, h5t

POSITIONS = "particles/trajectory/position/value"
SPECIES = "particles/trajectory/species"
HERE = "parameters/tg80"


def _edited(change):
    def spoil(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            change(file, path)

    return spoil


def _without(file, name):
    values, attributes = file[name][()], dict(file[name].attrs)
    del file[name]
    return values, attributes


def _linked(link):
    def change(file, path):
        del file[POSITIONS]
        file[POSITIONS] = link(path)

    return _edited(change)


def _other_file(path):
    other = path.with_name("other.h5")
    with h5py.File(other, "w") as file:
        file["x"] = np.zeros((20, 9, 3), "f4")
    return other


def _virtual(file, path):
    values, attributes = _without(file, POSITIONS)
    layout = h5py.VirtualLayout(values.shape, "f4")
    layout[...] = h5py.VirtualSource(str(_other_file(path)), "x", values.shape)
    file.create_virtual_dataset(POSITIONS, layout).attrs.update(attributes)


def _virtual_pipe(file, path):
    """Asked for its shape, HDF5 opens the source, which never answers."""
    _without(file, POSITIONS)
    os.mkfifo(path.with_name("pipe"))
    layout = h5py.VirtualLayout((20, 9, 3), "f4", maxshape=(None, 9, 3))
    source = h5py.VirtualSource(
        str(path.with_name("pipe")), "x", (20, 9, 3), "f4", maxshape=(None, 9, 3)
    )
    layout[: h5s.UNLIMITED, :, :] = source[: h5s.UNLIMITED, :, :]
    file.create_virtual_dataset(POSITIONS, layout)


def _external(file, path):
    values, attributes = _without(file, POSITIONS)
    raw = [("/etc/passwd", 0, values.nbytes)]
    file.create_dataset(POSITIONS, values.shape, "f4", external=raw).attrs.update(attributes)


def _typed(dtype, convert=lambda values, dtype: values.astype(dtype)):
    def change(file, path):
        values, _ = _without(file, SPECIES)
        file.create_dataset(SPECIES, data=convert(values, dtype), dtype=dtype)

    return _edited(change)


def _made(shape, make_type=h5t.IEEE_F32LE, chunk=None, filters=(), chunks=()):
    """A dataset of the low-level interface, with chunks as they stand in the file."""

    def change(file, path):
        _without(file, POSITIONS)
        plist = h5p.create(h5p.DATASET_CREATE)
        if chunk:
            plist.set_chunk(chunk)
        for code in filters:
            plist.set_filter(code, h5py.h5z.FLAG_OPTIONAL, (1,) * 4)
        links = h5p.create(h5p.LINK_CREATE)
        links.set_create_intermediate_group(True)
        kind, space = make_type, h5s.create_simple(shape)
        made = h5d.create(file.id, POSITIONS.encode(), kind, space, plist, links)
        for place, content in chunks:
            made.write_direct_chunk(place, content)
        file[POSITIONS].attrs["unit"] = "Angstrom"

    return _edited(change)


def _reference(file, path):
    _without(file, SPECIES)
    file.create_dataset(SPECIES, data=np.array([file[HERE].ref], dtype=h5py.ref_dtype))


def _nested(file, path):
    group = file
    for _ in range(3000):
        group = group.create_group("g")


def _many(file, path):
    for number in range(2000):
        file.create_group(f"parameters/{number}")


def _cycle(file, path):
    file[f"{HERE}/loop"] = file["parameters"]


def _attribute(name, value, **how):
    return _edited(lambda file, path: file[HERE].attrs.create(name, value, **how))


def _cut_short(path):
    """Chunks behind the end: the size in the superblock is put right, as a forger would."""
    with h5py.File(path) as file:
        last = max(
            file[POSITIONS].id.get_chunk_info(i).byte_offset
            for i in range(file[POSITIONS].id.get_num_chunks())
        )
    content = bytearray(path.read_bytes()[: last + 10])
    content[28:36] = len(content).to_bytes(8, "little")  # end of file, superblock 2 and 3
    path.write_bytes(content)


_BOMB = zlib.compress(bytes(50_000_000), 9)
_SHAPE, _CHUNK = (20, 9, 3), (20, 9, 3)

HOSTILE = {
    "external link": (
        _linked(lambda path: h5py.ExternalLink(str(_other_file(path)), "/x")),
        "is a link to another file",
    ),
    "soft link within": (
        _linked(lambda path: h5py.SoftLink("/particles/trajectory/velocity/value")),
        "is a soft link",
    ),
    "soft link in a circle": (_linked(lambda path: h5py.SoftLink("/" + POSITIONS)), "soft link"),
    "virtual dataset": (_edited(_virtual), "is a virtual dataset"),
    "virtual dataset of a pipe": (_edited(_virtual_pipe), "is a virtual dataset"),
    "external storage": (_edited(_external), "lie in another file"),
    "objects": (_made(_SHAPE, h5t.vlen_create(h5t.STD_I32LE)), "of another type"),
    "texts": (_typed(h5py.string_dtype(), lambda v, _: ["6"] * len(v)), "of another type"),
    "references": (_edited(_reference), "of another type"),
    "complex": (_typed("c8"), "of another type"),
    "compound": (
        _typed([("a", "i4")], lambda v, dtype: np.zeros(len(v), dtype)), "of another type"),
    "opaque": (_typed("V4", lambda v, dtype: np.zeros(len(v), dtype)), "of another type"),
    "long texts": (
        _typed("S100000", lambda v, dtype: np.zeros(len(v), dtype)), "of another type"),
    "a million numbers a value": (
        _made(_SHAPE, h5t.array_create(h5t.STD_I32LE, (10**6,))), "of another type"),
    "stored type": (
        _edited(lambda f, p: f.__setitem__("parameters/type", np.dtype("i4"))), "is a stored type"),
    "giant shape": (_made((10**9, 10**5, 3), chunk=(1, 10, 3)), "declares 1200000000000000 bytes"),
    "giant contiguous": (_made((10**6, 10**3, 3)), "declares 12000000000 bytes"),
    "giant chunk": (_made((2, 10**7), chunk=(2, 10**7)), "declares|has chunks of"),
    "bomb of zeros": (
        _edited(lambda f, p: (_without(f, POSITIONS), f.create_dataset(
            POSITIONS, data=np.zeros((200_000, 100, 3), "f4"), chunks=(2000, 100, 3),
            compression="gzip", compression_opts=1))),
        "declares 240000000 bytes"),
    "bomb in a chunk": (
        _made(_SHAPE, chunk=_CHUNK, filters=(1,), chunks=[((0, 0, 0), _BOMB)]), "does not unpack"),
    "chunk too short": (
        _made(_SHAPE, chunk=_CHUNK, filters=(1,), chunks=[((0, 0, 0), zlib.compress(b"abcd"))]),
        "does not unpack"),
    "raw chunk too short": (
        _made(_SHAPE, chunk=_CHUNK, filters=(), chunks=[((0, 0, 0), b"abcd")]), "does not unpack"),
    "library to load": (_made(_SHAPE, chunk=_CHUNK, filters=(32015,)), "filter 32015"),
    "built-in filter of another use": (_made(_SHAPE, chunk=_CHUNK, filters=(6,)), "filter 6"),
    "packed twice": (_made(_SHAPE, chunk=_CHUNK, filters=(1, 1)), "packed twice"),
    "thousands of nested groups": (_edited(_nested), "nested deeper"),
    "thousands of groups": (_edited(_many), "more than 1000 objects"),
    "circle of hard links": (_edited(_cycle), "under another name"),
    "attributes without end": (
        _edited(lambda f, p: [f[HERE].attrs.create(f"a{i}", i) for i in range(500)]), "attributes"),
    "large attribute": (_attribute("x", np.zeros(300_000)), "2400000 bytes"),
    "long text in an attribute": (_attribute("recipe", "x" * 3_000_000), "more than 1048576"),
    "objects in an attribute": (
        _attribute("x", h5py.Empty(h5py.vlen_dtype("i4"))), "of another type"),
    "compound attribute": (_attribute("x", np.zeros(1, [("a", "i4")])), "of another type"),
    "values behind the end": (_cut_short, "cut short|HDF5"),
}  # fmt: skip
"""Name -> (what spoils a shard in place, what is said of it)."""
