"""Forces on atoms from the Coulomb energy of a pair density in the field of a fitted density.

Both densities are expanded in Hermite Gaussians (hermite.py), so that no integral is formed for a
pair of basis functions and an auxiliary function: the field of all auxiliary functions is summed up
for each pair of primitives first (a J engine). That is far less work than the derivative integrals
over three indices.

    (Lambda_tuv | Lambda_t'u'v') = 2 pi^(5/2) / (p q sqrt(p + q)) (-1)^(t'+u'+v') R_{t+t',u+u',v+v'}

References:
    Ahmadi, Almloef, doi:10.1016/0009-2614(95)01053-4; White, Head-Gordon, doi:10.1063/1.471518 (J
    engine); Helgaker, Jorgensen, Olsen, Molecular Electronic-Structure Theory (2000), sec. 9.9.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numba import njit

from pipelines.engines.dft.kernels.gaussians import FAST, Basis, exp_of_minus
from pipelines.engines.dft.kernels.hermite import (
    LAST_X,
    PER_UNIT,
    TERMS,
    add_pair_gradient,
    expand_auxiliary,
    expand_pairs,
    hermite_tables,
    list_pairs,
)

# Primitive pairs worked on side by side.
_LANES = 16
# Primitive pairs handed to a thread at once.
_PAIRS_AT_ONCE = 512


class PairForces:
    """Coulomb forces between pair densities of one basis and a density in another.

    Args:
        orbital_basis, auxiliary_basis: the two bases, anywhere.
        threads: pairs worked on side by side.
    """

    def __init__(self, orbital_basis: Basis, auxiliary_basis: Basis, threads: int = 1):
        self._pair_degree = 2 * int(orbital_basis.shells[:, 1].max())
        self._auxiliary_degree = int(auxiliary_basis.shells[:, 1].max())
        self._tables = hermite_tables(self._pair_degree, self._auxiliary_degree)
        self._pool: Any = ThreadPoolExecutor(threads) if threads > 1 else None

    def gradient(
        self,
        orbital_basis: Basis,
        density: np.ndarray,
        auxiliary_basis: Basis,
        fitted: np.ndarray,
    ) -> np.ndarray:
        """Gradient (n_atoms, 3), hartree/bohr, of sum_ij,P D_ij (ij|P) c_P at fixed D and c.

        Args:
            orbital_basis: at the present geometry.
            density: D, (n_basis, n_basis), symmetric.
            auxiliary_basis: at the present geometry, on the same atoms.
            fitted: c, (n_auxiliary,).
        """
        tables = self._tables
        pairs = list_pairs(orbital_basis, density)
        n = len(pairs)
        centres, exponents = np.empty((n, 3)), np.empty(n)
        hermite = np.zeros((n, tables.counts[self._pair_degree]))
        fields = np.zeros((n, tables.counts[self._pair_degree + 1]))
        expand_pairs(orbital_basis, density, pairs, tables, centres, exponents, hermite)
        n_primitives = len(auxiliary_basis.exponents)
        expansion = np.zeros((n_primitives, tables.counts[self._auxiliary_degree]))
        expand_auxiliary(auxiliary_basis, fitted, tables, expansion)

        def work(task: tuple[int, np.ndarray]) -> np.ndarray:
            degree, members = task
            gradient = np.zeros((len(auxiliary_basis.centres), 3))
            pair_fields(
                tables, degree, members, exponents, centres, hermite,
                auxiliary_basis, expansion, fields, gradient,
            )  # fmt: skip
            return gradient

        run = map if self._pool is None else self._pool.map
        # Summed in their order, so that the number of threads changes no bit.
        gradient = np.sum(list(run(work, _tasks(orbital_basis, pairs))), axis=0)
        add_pair_gradient(orbital_basis, density, pairs, tables, hermite, fields, gradient)
        return gradient


def _tasks(basis: Basis, pairs: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """Pairs by total degree, some at a time."""
    degrees = basis.shells[pairs[:, 0], 1] + basis.shells[pairs[:, 1], 1]
    tasks = []
    for degree in np.unique(degrees):
        members = np.nonzero(degrees == degree)[0]
        for start in range(0, len(members), _PAIRS_AT_ONCE):
            tasks.append((int(degree), members[start : start + _PAIRS_AT_ONCE]))
    return tasks


@njit(cache=True, nogil=True, fastmath=FAST, error_model="numpy")
def _boys(x, highest, table, out):
    """F_0 ... F_highest of one argument."""
    if x < LAST_X:
        node = int(x * PER_UNIT + 0.5)
        step = node / PER_UNIT - x
        value = 0.0
        for k in range(TERMS - 1, -1, -1):
            value = value * step / (k + 1) + table[node, highest + k]
        decay = exp_of_minus(x)
        out[highest] = value
        for n in range(highest - 1, -1, -1):
            out[n] = (2.0 * x * out[n + 1] + decay) / (2 * n + 1)
        return
    out[0] = 0.5 * np.sqrt(np.pi / x)
    for n in range(highest):
        out[n + 1] = (2 * n + 1) * out[n] / (2.0 * x)


@njit(cache=True, nogil=True, fastmath=FAST, error_model="numpy")
def _interaction(tables, highest, d, f, odd, even):
    """R_tuv up to a total degree for all lanes; returns the one of odd and even that holds them.

    Args:
        tables: index tables.
        highest: total degree.
        d: (3, lanes) from the auxiliary function to the pair.
        f: (highest + 1, lanes) (-2 alpha)^n F_n with its prefactor.
        odd: scratch (n_hermite, lanes).
        even: scratch (n_hermite, lanes).
    """
    now, after = even, odd
    for w in range(f.shape[1]):
        now[0, w] = f[highest, w]
    for n in range(highest - 1, -1, -1):
        now, after = after, now
        for w in range(f.shape[1]):
            now[0, w] = f[n, w]
        for k in range(1, tables.counts[highest - n]):
            along, lower, lowest = d[tables.axes[k]], after[tables.lower[k]], now[k]
            for w in range(f.shape[1]):
                lowest[w] = along[w] * lower[w]
            factor = tables.factors[k]
            if factor != 0.0:
                twice = after[tables.lowest[k]]
                for w in range(f.shape[1]):
                    lowest[w] += factor * twice[w]
    return now


@njit(cache=True, nogil=True, fastmath=FAST, error_model="numpy")
def _add_field(tables, n_field, hermite, degree, interaction, field):
    """Add the field (n_field, lanes) of one auxiliary primitive and its derivatives."""
    for s in range(tables.counts[degree]):
        weight = hermite[s]
        if weight == 0.0:
            continue
        for v in range(n_field):
            source, target = interaction[tables.sums[v, s]], field[v]
            for w in range(target.shape[0]):
                target[w] += weight * source[w]


@njit(cache=True, nogil=True, fastmath=FAST, error_model="numpy")
def _lane_field(tables, pair_degree, p, centres, hermite, auxiliary, expansion, field, gradient):
    """Field of all auxiliary functions at a few pairs, and the pull on the auxiliary atoms.

    Args:
        tables: index tables.
        pair_degree: total degree of all these pairs.
        p: (lanes,) their exponents.
        centres: (3, lanes).
        hermite: (n_hermite, lanes) their Hermite coefficients; zero on idle lanes.
        auxiliary: the auxiliary basis.
        expansion: its Hermite coefficients.
        field: result, (n_field, lanes).
        gradient: (n_atoms, 3), added to.
    """
    lanes, n_field = len(p), tables.counts[pair_degree + 1]
    n_all = tables.counts[-1]
    odd, even = np.empty((n_all, lanes)), np.empty((n_all, lanes))
    part, d = np.empty((n_field, lanes)), np.empty((3, lanes))
    f, values = np.empty((len(tables.counts), lanes)), np.empty(len(tables.counts))
    field[:] = 0.0
    shell = 0
    for atom in range(len(auxiliary.centres)):
        part[:] = 0.0
        for x in range(3):
            for w in range(lanes):
                d[x, w] = centres[x, w] - auxiliary.centres[atom, x]
        while shell < len(auxiliary.shells) and auxiliary.shells[shell, 0] == atom:
            degree = auxiliary.shells[shell, 1]
            highest = pair_degree + 1 + degree
            for k in range(auxiliary.shells[shell, 2], auxiliary.shells[shell, 3]):
                q = auxiliary.exponents[k]
                for w in range(lanes):
                    alpha = p[w] * q / (p[w] + q)
                    square = d[0, w] ** 2 + d[1, w] ** 2 + d[2, w] ** 2
                    _boys(alpha * square, highest, tables.boys, values)
                    factor = 2.0 * np.pi**2.5 / (p[w] * q * np.sqrt(p[w] + q))
                    for n in range(highest + 1):
                        f[n, w] = factor * values[n]
                        factor *= -2.0 * alpha
                interaction = _interaction(tables, highest, d, f, odd, even)
                _add_field(tables, n_field, expansion[k], degree, interaction, part)
            shell += 1
        for h in range(tables.counts[pair_degree]):
            for x in range(3):
                slope, total = part[tables.sums[h, 1 + x]], 0.0
                for w in range(lanes):
                    total += hermite[h, w] * slope[w]
                gradient[atom, x] -= total
        field += part


@njit(cache=True, nogil=True)
def pair_fields(
    tables, pair_degree, members, exponents, centres, hermite,
    auxiliary, expansion, fields, gradient,
):  # fmt: skip
    """Fields at the pairs `members`, all of one total degree, a few lanes at a time.

    Fills rows of fields (n_pairs, n_hermite), adds the pull on the auxiliary functions' atoms to
    gradient (n_atoms, 3).
    """
    n_hermite, n_field = tables.counts[pair_degree], tables.counts[pair_degree + 1]
    p, c = np.empty(_LANES), np.empty((3, _LANES))
    h, field = np.empty((n_hermite, _LANES)), np.empty((n_field, _LANES))
    for start in range(0, len(members), _LANES):
        for w in range(_LANES):
            n = members[min(start + w, len(members) - 1)]
            busy = start + w < len(members)
            p[w], c[:, w] = exponents[n], centres[n]
            for k in range(n_hermite):
                h[k, w] = hermite[n, k] if busy else 0.0
        _lane_field(tables, pair_degree, p, c, h, auxiliary, expansion, field, gradient)
        for w in range(min(_LANES, len(members) - start)):
            fields[members[start + w], :n_field] = field[:, w]
