"""Chunks packed as HDF5's own filters leave them, in fewer bytes than HDF5 writes.

Shuffling puts the first bytes of all numbers of a chunk together, then the second ones, and so on.
HDF5 deflates these planes as one text; the noise in one then spoils the compression of the next. A
deflate stream may change its strategy at any block, so here each plane gets the one that suits it,
and any reader of gzip-compressed HDF5 reads the result. Shards become about a tenth smaller.

References:
    Deflate and zlib streams, RFC 1951 and RFC 1950.
"""

import struct
import zlib

import numpy as np

_STRATEGIES = (zlib.Z_DEFAULT_STRATEGY, zlib.Z_FILTERED, zlib.Z_RLE)
_RAW_DEFLATE = -15  # a window of 32 KiB, neither header nor checksum
_ZLIB_HEADER = b"\x78\xda"  # the same window, best compression


def pack_chunk(values: np.ndarray) -> bytes:
    """The bytes of a chunk after HDF5's filters shuffle, deflate and fletcher32, in that order."""
    size = values.dtype.itemsize
    planes = np.ascontiguousarray(values).view(np.uint8).reshape(-1, size).T
    blocks = [_smallest_block(plane.tobytes()) for plane in planes]
    adler32 = struct.pack(">I", zlib.adler32(planes.tobytes()))
    last = zlib.compressobj(wbits=_RAW_DEFLATE).flush()
    stream = b"".join((_ZLIB_HEADER, *blocks, last, adler32))
    return stream + struct.pack("<I", fletcher32(stream))


def _smallest_block(plane: bytes) -> bytes:
    """One plane deflated by the best strategy, ended at a byte so that another may follow."""
    found = []
    for strategy in _STRATEGIES:
        deflate = zlib.compressobj(9, zlib.DEFLATED, _RAW_DEFLATE, 9, strategy)
        found.append(deflate.compress(plane) + deflate.flush(zlib.Z_SYNC_FLUSH))
    return min(found, key=len)


def fletcher32(content: bytes) -> int:
    """HDF5's Fletcher checksum: sums, modulo 65535, of 16-bit big-endian words."""
    words = np.frombuffer(content + b"\0" * (len(content) % 2), dtype=">u2").astype(np.uint64)
    weights = np.arange(len(words), 0, -1, dtype=np.uint64) % 65535
    first, second = (_folded(int(sums.sum())) for sums in (words, words * weights))
    return second << 16 | first


def _folded(total: int) -> int:
    """A sum as adding the carries back in leaves it: 65535 stands for its multiples, 0 for none."""
    return (total - 1) % 65535 + 1 if total else 0
