"""Compiled pieces of contracted Gaussian functions on a block of points.

A basis function is a real solid harmonic S_lm(d) times a radial function R(d^2) of the distance d
from its atom, R = sum_k c_k exp(-a_k d^2); its derivatives need R and the derivatives of R by d^2.
"""

from typing import NamedTuple

import numpy as np
from numba import njit

from pipelines.engines.dft.kernels.compiling import FAST, inlined

# A primitive whose exp(-x) is below 1e-16 all over a block is left out.
_NEGLIGIBLE = 37.0
_MIDDLE = 0.234375
_EXP_OF_MIDDLE = float(np.exp(-_MIDDLE))


class Basis(NamedTuple):
    """Contracted Gaussian shells; lengths in bohr.

    Attributes:
        centres: (n_atoms, 3).
        shells: (n_shells, 5) atom, degree, first primitive, end of primitives, first function;
            the shells of an atom stand together.
        reaches: (n_shells, n_levels) distances beyond which a shell's radial part is small.
        exponents, coefficients: (n_primitives,).
        transforms: (l_max + 1, n_monomials, 2 l_max + 1) monomials to solid harmonics, ordered
            xx, xy, xz, yy, yz, zz.
    """

    centres: np.ndarray
    shells: np.ndarray
    reaches: np.ndarray
    exponents: np.ndarray
    coefficients: np.ndarray
    transforms: np.ndarray


# Orders of the derivative along x, y, z by component: value, first, second derivatives.
_ORDERS = np.array(
    [
        [0, 0, 0],
        [1, 0, 0], [0, 1, 0], [0, 0, 1],
        [2, 0, 0], [1, 1, 0], [1, 0, 1], [0, 2, 0], [0, 1, 1], [0, 0, 2],
    ]
)  # fmt: skip


@njit(cache=True, nogil=True, fastmath=FAST, inline="always")
def exp_of_minus(x):
    """exp(-x) for 0 <= x <= 60, to 1e-13 relative; unlike the library's it vectorises.

    A Taylor series about the middle of exp(-x / 128), squared seven times.
    """
    r = _MIDDLE - x * 0.0078125
    s = 1.0 / 39916800.0
    s = s * r + 1.0 / 3628800.0
    s = s * r + 1.0 / 362880.0
    s = s * r + 1.0 / 40320.0
    s = s * r + 1.0 / 5040.0
    s = s * r + 1.0 / 720.0
    s = s * r + 1.0 / 120.0
    s = s * r + 1.0 / 24.0
    s = s * r + 1.0 / 6.0
    s = s * r + 0.5
    s = s * r + 1.0
    s = (s * r + 1.0) * _EXP_OF_MIDDLE
    s = s * s
    s = s * s
    s = s * s
    s = s * s
    s = s * s
    s = s * s
    return s * s


@inlined
def powers_of(d, highest, out):
    """Powers 0 ... highest of d (3, n_points) into out (3, highest + 1, n_points)."""
    for x in range(3):
        out[x, 0] = 1.0
        for k in range(1, highest + 1):
            for p in range(d.shape[1]):
                out[x, k, p] = out[x, k - 1, p] * d[x, p]


@inlined
def harmonics_of(powers, transform, degree, n_components, out):
    """Solid harmonics of a degree, with derivatives, into out (n_components, 2l + 1, n_points).

    `transform` (n_cartesian, 2l + 1) gives them in monomials ordered xx, xy, xz, yy, yz, zz.
    """
    n_points = powers.shape[2]
    n_orders = 2 * degree + 1
    for component in range(n_components):
        for m in range(n_orders):
            out[component, m] = 0.0
        i, j, k = _ORDERS[component]
        cartesian = -1
        for a in range(degree, -1, -1):
            for b in range(degree - a, -1, -1):
                c = degree - a - b
                cartesian += 1
                if a < i or b < j or c < k:
                    continue
                factor = 1.0
                for step in range(i):
                    factor *= a - step
                for step in range(j):
                    factor *= b - step
                for step in range(k):
                    factor *= c - step
                for m in range(n_orders):
                    weight = factor * transform[cartesian, m]
                    if weight == 0.0:
                        continue
                    px, py, pz = powers[0, a - i], powers[1, b - j], powers[2, c - k]
                    for p in range(n_points):
                        out[component, m, p] += weight * px[p] * py[p] * pz[p]


@inlined
def radial_of(squares, exponents, coefficients, n_derivatives, out):
    """R and its derivatives by d^2 into out (n_derivatives + 1, n_points)."""
    n_points = len(squares)
    nearest = squares.min()
    out[: n_derivatives + 1] = 0.0
    for k in range(len(exponents)):
        exponent, coefficient = exponents[k], coefficients[k]
        if exponent * nearest > _NEGLIGIBLE:
            continue
        if n_derivatives == 1:
            for p in range(n_points):
                value = coefficient * exp_of_minus(min(exponent * squares[p], 60.0))
                out[0, p] += value
                out[1, p] -= exponent * value
        else:
            for p in range(n_points):
                value = coefficient * exp_of_minus(min(exponent * squares[p], 60.0))
                out[0, p] += value
                out[1, p] -= exponent * value
                out[2, p] += exponent * exponent * value


@inlined
def distances(points, centre, d, squares):
    """Vectors from an atom (3, n_points) and their squared lengths."""
    for p in range(points.shape[1]):
        d[0, p] = points[0, p] - centre[0]
        d[1, p] = points[1, p] - centre[1]
        d[2, p] = points[2, p] - centre[2]
        squares[p] = d[0, p] ** 2 + d[1, p] ** 2 + d[2, p] ** 2
