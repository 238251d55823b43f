"""Our npz files, which a stranger or a bad disk may have altered: no pickles, no bombs."""

import io
import math
import zipfile
from pathlib import Path

import numpy as np

MOST_BYTES = 256 << 20
"""Unpacked, of a file of any size; larger files may unpack to `MOST_GROWTH` times theirs."""
MOST_GROWTH = 20


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
