"""How the loops of this folder are compiled.

A function that others call must be `inlined` if it is compiled with `FAST`: each of its callers has
a copy of its own, and of copies that round differently a process which has just compiled them would
take another one than a process which finds them in numba's cache.
"""

from numba import njit

# Sums in any order and fused products: what vector units need. Neither NaN nor infinity is denied.
FAST = {"reassoc", "contract", "arcp", "nsz"}

# Divisions are not checked for zero: checked loops don't vectorise.
kernel = njit(cache=True, nogil=True, fastmath=FAST, error_model="numpy")
inlined = njit(cache=True, nogil=True, fastmath=FAST, error_model="numpy", forceinline=True)
