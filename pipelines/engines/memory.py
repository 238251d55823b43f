"""Freed memory stays with the process that evaluates energies."""

import ctypes

# Of glibc's mallopt: parameters, and the most that it takes for the second.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_TRIM_BYTES, _MMAP_BYTES = 2**30, 2**25


def keep_freed_memory() -> None:
    """Have arrays of up to 32 MB made of memory that was in use before.

    A process started by Dask's nanny gives it back to the system at once, so that every large
    array is new pages: DFT then takes nearly twice as long. Without glibc nothing is done.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(_TRIM_THRESHOLD, _TRIM_BYTES)
    mallopt(_MMAP_THRESHOLD, _MMAP_BYTES)
