"""Our npz files, which a stranger or a bad disk may have altered: no pickles, no bombs."""

import io
import json
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

MOST_BYTES = 256 << 20
"""Unpacked, of a file of any size; larger files may unpack to `MOST_GROWTH` times theirs."""
MOST_GROWTH = 20
_HEADER = "header"


def pack_npz(
    arrays: Mapping[str, np.ndarray],
    header: Mapping[str, Any] | None = None,
    *,
    compressed: bool = False,
) -> bytes:
    """The bytes of an npz file.

    Args:
        arrays: by name.
        header: JSON-able facts, kept beside the arrays; `split_header` takes them out again.
        compressed: deflate the arrays.
    """
    content = dict(arrays)
    if header is not None:
        text = json.dumps(dict(header), sort_keys=True).encode()
        content[_HEADER] = np.frombuffer(text, dtype=np.uint8)
    buffer = io.BytesIO()
    save = np.savez_compressed if compressed else np.savez
    save(buffer, allow_pickle=False, **content)
    return buffer.getvalue()


def split_header(found: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays of a file written with a header, and the header.

    Raises:
        ValueError: there is no header, or it is not JSON.
    """
    if _HEADER not in found:
        raise ValueError("has no header")
    try:
        header = json.loads(found[_HEADER].tobytes())
    except RecursionError:
        raise ValueError("its header is nested too deeply") from None
    return {name: array for name, array in found.items() if name != _HEADER}, header


def read_npz(source: Path | bytes) -> dict[str, np.ndarray]:
    """All arrays by name.

    Raises:
        ValueError: cut short, altered, or no such file; an array is larger than what is stored.
        OSError: it cannot be read.
    """
    content = source if isinstance(source, bytes) else source.read_bytes()
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = archive.infolist()
            n_bytes = sum(entry.file_size for entry in entries)
            if n_bytes > max(MOST_BYTES, MOST_GROWTH * len(content)):
                raise ValueError(f"unpacks to {n_bytes} bytes")
            return {entry.filename.removesuffix(".npy"): _read(archive, entry) for entry in entries}
    except Exception as error:  # whatever zipfile and NumPy's reader of headers meet in such bytes
        raise ValueError(f"cut short or altered: {error}") from None


def _read(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(entry) as stream:  # it gives no more than `file_size`, whatever unpacks
        content = stream.read()
    stream = io.BytesIO(content)
    read_header = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(np.lib.format.read_magic(stream))
    if read_header is None:
        raise ValueError(f"{entry.filename} is of another format")
    shape, _, dtype = read_header(stream)
    # NumPy takes the memory before it reads.
    if dtype.hasobject or math.prod(shape) * dtype.itemsize != len(content) - stream.tell():
        raise ValueError(f"{entry.filename} does not hold {shape} values of {dtype}")
    return np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
