"""Arrays that stay in a file and are read as they are used, for data larger than memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from tg80.errors import Tg80Error
from tg80.files import write_atomically

DTYPE = np.dtype("<f4")


class MappedArray(np.memmap):
    """An array mapped from a file; pickled, it is its place in the file, not its values.

    So a loader's worker that is started afresh maps the same file instead of getting a copy.
    """

    def __reduce__(self) -> Any:
        mapping = getattr(self, "_mmap", None)
        if mapping is None:  # what arithmetic made of one lies in memory
            return np.asarray(self).__reduce__()
        first = self.ctypes.data - np.frombuffer(mapping, dtype="u1").ctypes.data
        return _view, (str(self.filename), first // DTYPE.itemsize, self.shape, self.strides)


def _view(
    path: str, first: int, shape: tuple[int, ...], strides: tuple[int, ...] | None = None
) -> np.ndarray:
    whole = MappedArray(path, dtype=DTYPE, mode="r")
    return as_strided(whole[first:], shape, strides, subok=True, writeable=False)


def map_arrays(path: Path, arrays: Sequence[np.ndarray]) -> None:
    """Write arrays one after another as float32, for `mapped_arrays`.

    Raises:
        Tg80Error: the file cannot be written; nothing is left behind.
    """
    write_atomically(path, b"".join(np.ascontiguousarray(a, dtype=DTYPE).tobytes() for a in arrays))


def mapped_arrays(path: Path, shapes: Sequence[tuple[int, ...]]) -> list[np.ndarray] | None:
    """The arrays of these shapes that `map_arrays` wrote; None if there is no such file.

    Raises:
        Tg80Error: the file is there and cannot be mapped.
    """
    sizes = [int(np.prod(shape)) for shape in shapes]
    try:
        if path.stat().st_size != sum(sizes) * DTYPE.itemsize:
            return None
        offsets = np.cumsum([0, *sizes[:-1]]).tolist()
        return [_view(str(path), at, shape) for at, shape in zip(offsets, shapes, strict=True)]
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Tg80Error(f"{path}: cannot be mapped: {error.strerror or error}") from None
