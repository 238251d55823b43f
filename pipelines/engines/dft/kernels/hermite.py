"""Densities in Hermite Gaussians: products of two basis functions, and auxiliary functions.

    Lambda_tuv = d^t/dP_x^t d^u/dP_y^u d^v/dP_z^v exp(-p |r - P|^2)

References:
    McMurchie, Davidson, doi:10.1016/0021-9991(78)90092-X; Helgaker, Jorgensen, Olsen,
    Molecular Electronic-Structure Theory (2000), sec. 9.5.
"""

from typing import NamedTuple

import numpy as np
from numba import njit

from pipelines.engines.dft.kernels.compiling import inlined

# The Boys function is tabulated up to here; beyond, exp(-x) counts for nothing.
LAST_X = 46.0
PER_UNIT = 10
TERMS = 7
# Primitive pairs whose largest element of the density falls below this are left out.
_NEGLIGIBLE = 1e-12


def _boys_table(n_orders: int) -> np.ndarray:
    """F_n(x) = int_0^1 t^2n exp(-x t^2) dt on a grid of x, (n_x, n_orders)."""
    x = np.arange(0.0, LAST_X + 0.5, 1.0 / PER_UNIT)[:, None]
    n = np.arange(n_orders)[None, :]
    term = 1.0 / (2 * n + 1) + 0.0 * x
    total = term.copy()
    for k in range(1, 400):
        term = term * 2.0 * x / (2 * n + 2 * k + 1)
        total += term
    return np.exp(-x) * total


class Tables(NamedTuple):
    """Indices of Hermite functions, in the order of their total degree.

    Attributes:
        orders: (n, 3) t, u, v.
        counts: (max_degree + 1,) functions up to each degree.
        axes, lower, lowest, factors: (n,) the recursion R_k = d_axis R_lower + factor R_lowest.
        sums: (n_small, n_small) index of the sum of two functions' orders.
        boys: (n_x, n_orders).
    """

    orders: np.ndarray
    counts: np.ndarray
    axes: np.ndarray
    lower: np.ndarray
    lowest: np.ndarray
    factors: np.ndarray
    sums: np.ndarray
    boys: np.ndarray


def hermite_tables(pair_degree: int, auxiliary_degree: int) -> Tables:
    """Tables for pairs up to a total degree, and one derivative, with auxiliary functions."""
    highest = pair_degree + 1 + auxiliary_degree
    orders = [
        (t, u, degree - t - u)
        for degree in range(highest + 1)
        for t in range(degree, -1, -1)
        for u in range(degree - t, -1, -1)
    ]
    index: dict[tuple[int, ...], int] = {order: k for k, order in enumerate(orders)}
    n = len(orders)
    axes, lower, lowest = (np.zeros(n, dtype=np.int64) for _ in range(3))
    factors = np.zeros(n)
    for k, order in enumerate(orders[1:], start=1):
        axis = next(x for x in range(3) if order[x])
        once = tuple(value - (x == axis) for x, value in enumerate(order))
        twice = tuple(value - 2 * (x == axis) for x, value in enumerate(order))
        axes[k], lower[k] = axis, index[once]
        if order[axis] > 1:
            lowest[k], factors[k] = index[twice], order[axis] - 1
    small = [
        k for k, order in enumerate(orders) if sum(order) <= max(pair_degree + 1, auxiliary_degree)
    ]
    sums = np.full((len(small), len(small)), -1)
    for i in small:
        for j in small:
            total = tuple(a + b for a, b in zip(orders[i], orders[j], strict=True))
            sums[i, j] = index.get(total, -1)
    degrees = np.array([sum(order) for order in orders])
    counts = np.array([np.sum(degrees <= degree) for degree in range(highest + 1)])
    boys = _boys_table(highest + TERMS + 1)
    return Tables(np.array(orders), counts, axes, lower, lowest, factors, sums, boys)


@inlined
def _expansion(i_max, j_max, a, b, pa, pb, out):
    """E_t^{ij} of x_A^i x_B^j in Hermite functions, out (i_max + 1, j_max + 1, i_max + j_max + 1).

    The exponential factor of the product is left out.
    """
    half = 0.5 / (a + b)
    out[:] = 0.0
    out[0, 0, 0] = 1.0
    for i in range(i_max + 1):
        for j in range(j_max + 1):
            if i == 0 and j == 0:
                continue
            before, shift = (out[i - 1, j], pa) if i else (out[i, j - 1], pb)
            for t in range(i + j + 1):
                value = shift * before[t]
                if t > 0:
                    value += half * before[t - 1]
                if t + 1 <= i + j - 1:
                    value += (t + 1) * before[t + 1]
                out[i, j, t] = value


@njit(cache=True, nogil=True)
def _cartesian_density(basis, density, i, j):
    """The density matrix of two shells in monomials, (n_monomials_i, n_monomials_j)."""
    li, lj = basis.shells[i, 1], basis.shells[j, 1]
    fi, fj = basis.shells[i, 4], basis.shells[j, 4]
    ni, nj = (li + 1) * (li + 2) // 2, (lj + 1) * (lj + 2) // 2
    block = density[fi : fi + 2 * li + 1, fj : fj + 2 * lj + 1].copy()
    left = basis.transforms[li, :ni, : 2 * li + 1].copy()
    right = basis.transforms[lj, :nj, : 2 * lj + 1].copy()
    return np.dot(np.dot(left, block), right.T.copy())


@njit(cache=True, nogil=True)
def list_pairs(basis, density):
    """Primitive pairs that count: (n_pairs, 4) shells i >= j and their primitives."""
    pairs = []
    for i in range(len(basis.shells)):
        for j in range(i + 1):
            di = basis.centres[basis.shells[i, 0]] - basis.centres[basis.shells[j, 0]]
            square = np.dot(di, di)
            largest = np.abs(_cartesian_density(basis, density, i, j)).max()
            for k in range(basis.shells[i, 2], basis.shells[i, 3]):
                for m in range(basis.shells[j, 2], basis.shells[j, 3]):
                    a, b = basis.exponents[k], basis.exponents[m]
                    size = np.abs(basis.coefficients[k] * basis.coefficients[m])
                    size *= np.exp(-a * b / (a + b) * square) * largest
                    if size > _NEGLIGIBLE:
                        pairs.append((i, j, k, m))
    return np.array(pairs)


@njit(cache=True, nogil=True)
def _prepare(basis, density, pair, ex):
    """Exponents, centre and weighted monomial density of a primitive pair; fills ex (3, ...)."""
    i, j, k, m = pair
    a, b = basis.exponents[k], basis.exponents[m]
    ra, rb = basis.centres[basis.shells[i, 0]], basis.centres[basis.shells[j, 0]]
    centre = (a * ra + b * rb) / (a + b)
    li, lj = basis.shells[i, 1], basis.shells[j, 1]
    for x in range(3):
        _expansion(li + 1, lj, a, b, centre[x] - ra[x], centre[x] - rb[x], ex[x])
    weight = basis.coefficients[k] * basis.coefficients[m]
    weight *= np.exp(-a * b / (a + b) * np.dot(ra - rb, ra - rb))
    if i != j:
        weight *= 2.0
    return a, b, centre, weight * _cartesian_density(basis, density, i, j)


@njit(cache=True, nogil=True)
def expand_pairs(basis, density, pairs, tables, centres, exponents, hermite):
    """Fill centres (n, 3), exponents (n,) and Hermite coefficients (n, n_hermite) of the pairs."""
    l_max = basis.transforms.shape[0] - 1
    ex = np.empty((3, l_max + 2, l_max + 1, 2 * l_max + 2))
    for n in range(len(pairs)):
        i, j = pairs[n, 0], pairs[n, 1]
        a, b, centre, block = _prepare(basis, density, pairs[n], ex)
        centres[n], exponents[n] = centre, a + b
        li, lj = basis.shells[i, 1], basis.shells[j, 1]
        for h in range(tables.counts[li + lj]):
            t, u, v = tables.orders[h]
            total, row = 0.0, 0
            for ix in range(li, -1, -1):
                for iy in range(li - ix, -1, -1):
                    column = 0
                    for jx in range(lj, -1, -1):
                        for jy in range(lj - jx, -1, -1):
                            iz, jz = li - ix - iy, lj - jx - jy
                            if t <= ix + jx and u <= iy + jy and v <= iz + jz:
                                total += (
                                    block[row, column] * ex[0, ix, jx, t]
                                    * ex[1, iy, jy, u] * ex[2, iz, jz, v]
                                )  # fmt: skip
                            column += 1
                    row += 1
            hermite[n, h] = total


@njit(cache=True, nogil=True)
def expand_auxiliary(basis, fitted, tables, hermite):
    """Hermite coefficients of each auxiliary primitive, signs included, (n_primitives, n)."""
    l_max = basis.transforms.shape[0] - 1
    ex = np.empty((l_max + 1, 1, l_max + 1))
    for shell in range(len(basis.shells)):
        degree, first = basis.shells[shell, 1], basis.shells[shell, 4]
        n_monomials = (degree + 1) * (degree + 2) // 2
        weights = np.dot(
            basis.transforms[degree, :n_monomials, : 2 * degree + 1].copy(),
            fitted[first : first + 2 * degree + 1],
        )
        for k in range(basis.shells[shell, 2], basis.shells[shell, 3]):
            _expansion(degree, 0, basis.exponents[k], 0.0, 0.0, 0.0, ex)
            for h in range(tables.counts[degree]):
                t, u, v = tables.orders[h]
                total, row = 0.0, 0
                for x in range(degree, -1, -1):
                    for y in range(degree - x, -1, -1):
                        z = degree - x - y
                        if t <= x and u <= y and v <= z:
                            total += weights[row] * ex[x, 0, t] * ex[y, 0, u] * ex[z, 0, v]
                        row += 1
                sign = -1.0 if (t + u + v) % 2 else 1.0
                hermite[k, h] = sign * basis.coefficients[k] * total


@njit(cache=True, nogil=True)
def add_pair_gradient(basis, density, pairs, tables, hermite, fields, gradient):
    """Add the pull of the field on the atoms of each pair's two functions."""
    l_max = basis.transforms.shape[0] - 1
    ex = np.empty((3, l_max + 2, l_max + 1, 2 * l_max + 2))
    slope = np.empty((3, l_max + 1, l_max + 1, 2 * l_max + 2))
    first = np.empty(3)
    for n in range(len(pairs)):
        i, j = pairs[n, 0], pairs[n, 1]
        a, _, _, block = _prepare(basis, density, pairs[n], ex)
        li, lj = basis.shells[i, 1], basis.shells[j, 1]
        slope[:] = 0.0
        for x in range(3):
            for ix in range(li + 1):
                for jx in range(lj + 1):
                    for t in range(ix + jx + 2):
                        slope[x, ix, jx, t] = 2.0 * a * ex[x, ix + 1, jx, t]
                        if ix > 0:
                            slope[x, ix, jx, t] -= ix * ex[x, ix - 1, jx, t]
        _pull_on_first(li, lj, block, ex, slope, tables, fields[n], first)
        for x in range(3):
            both = 0.0
            for h in range(tables.counts[li + lj]):
                both += hermite[n, h] * fields[n, tables.sums[h, 1 + x]]
            gradient[basis.shells[i, 0], x] += first[x]
            gradient[basis.shells[j, 0], x] += both - first[x]


@njit(cache=True, nogil=True)
def _pull_on_first(li, lj, block, ex, slope, tables, field, first):
    """Derivative of a pair's energy by the place of its first function, into first (3,)."""
    first[:] = 0.0
    for h in range(tables.counts[li + lj + 1]):
        t, u, v = tables.orders[h]
        x_sum, y_sum, z_sum, row = 0.0, 0.0, 0.0, 0
        for ix in range(li, -1, -1):
            for iy in range(li - ix, -1, -1):
                iz, column = li - ix - iy, 0
                for jx in range(lj, -1, -1):
                    for jy in range(lj - jx, -1, -1):
                        jz = lj - jx - jy
                        weight = block[row, column]
                        column += 1
                        ey, ez = ex[1, iy, jy, u], ex[2, iz, jz, v]
                        x_sum += weight * slope[0, ix, jx, t] * ey * ez
                        y_sum += weight * ex[0, ix, jx, t] * slope[1, iy, jy, u] * ez
                        z_sum += weight * ex[0, ix, jx, t] * ey * slope[2, iz, jz, v]
                row += 1
        first[0] += x_sum * field[h]
        first[1] += y_sum * field[h]
        first[2] += z_sum * field[h]
