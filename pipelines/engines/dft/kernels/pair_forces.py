"""Forces on atoms from the Coulomb energy of a pair density, a fitted density and the nuclei.

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
from typing import Any, NamedTuple

import numpy as np

from pipelines.engines.dft.kernels.compiling import inlined, kernel
from pipelines.engines.dft.kernels.gaussians import Basis, exp_of_minus
from pipelines.engines.dft.kernels.hermite import (
    LAST_X,
    PER_UNIT,
    TERMS,
    Tables,
    add_pair_gradient,
    expand_auxiliary,
    expand_pairs,
    hermite_tables,
    list_pairs,
)

# Sources worked on side by side: with 16 the loops are too short for what surrounds them.
_LANES = 64
# Sources handed to a thread at once.
_SOURCES_AT_ONCE = 512
# Exponent of a charge that is as good as a point, bohr^-2.
_NARROW = 1e16


class Sources(NamedTuple):
    """Hermite Gaussians at whose places a field is wanted: primitive pairs, for one.

    Attributes:
        degrees: (n,) highest total order.
        exponents: (n,), bohr^-2.
        centres: (n, 3), bohr.
        hermite: (n, n_hermite) coefficients.
    """

    degrees: np.ndarray
    exponents: np.ndarray
    centres: np.ndarray
    hermite: np.ndarray


class PairForces:
    """Coulomb forces between pair densities of one basis, a density in another, and nuclei.

    Args:
        orbital_basis, auxiliary_basis: the two bases, on the same atoms.
        charges: (n_atoms,) of the nuclei, e.
        threads: pairs worked on side by side.
    """

    def __init__(
        self,
        orbital_basis: Basis,
        auxiliary_basis: Basis,
        charges: np.ndarray,
        threads: int = 1,
    ):
        self._charges = np.asarray(charges, dtype=np.float64)
        self._pair_degree = 2 * int(orbital_basis.shells[:, 1].max())
        self._auxiliary_degree = int(auxiliary_basis.shells[:, 1].max())
        self._tables = hermite_tables(
            max(self._pair_degree, self._auxiliary_degree), self._auxiliary_degree
        )
        self._pool: Any = ThreadPoolExecutor(threads) if threads > 1 else None

    def gradient(
        self,
        orbital_basis: Basis,
        density: np.ndarray,
        auxiliary_basis: Basis,
        fitted: np.ndarray,
    ) -> np.ndarray:
        """Gradient of the fitted Coulomb energy and of the attraction by the nuclei.

        That of sum_ij,P D_ij (ij|P) c_P - 1/2 sum_PQ c_P (P|Q) c_Q - sum_ij,A D_ij Z_A (ij|A) at
        fixed D and c.

        Args:
            orbital_basis: at the present geometry.
            density: D, (n_basis, n_basis), symmetric.
            auxiliary_basis: at the present geometry.
            fitted: c, (n_auxiliary,).

        Returns:
            (n_atoms, 3), hartree/bohr.
        """
        tables = self._tables
        pairs = list_pairs(orbital_basis, density)
        n = len(pairs)
        centres, exponents = np.empty((n, 3)), np.empty(n)
        hermite = np.zeros((n, tables.counts[self._pair_degree]))
        expand_pairs(orbital_basis, density, pairs, tables, centres, exponents, hermite)
        n_primitives = len(auxiliary_basis.exponents)
        expansion = np.zeros((n_primitives, tables.counts[self._auxiliary_degree]))
        expand_auxiliary(auxiliary_basis, fitted, tables, expansion)
        degrees = orbital_basis.shells[pairs[:, :2], 1].sum(axis=1)
        sources = Sources(degrees, exponents, centres, hermite)
        gradient, fields = self._pull(
            sources, *_with_nuclei(auxiliary_basis, expansion, self._charges)
        )
        add_pair_gradient(orbital_basis, density, pairs, tables, hermite, fields, gradient)
        # Auxiliary functions in each other's field: of half the energy, but either of two moves.
        themselves = _as_sources(auxiliary_basis, expansion, tables)
        return gradient - self._pull(themselves, auxiliary_basis, expansion)[0]

    def _pull(
        self, sources: Sources, auxiliary_basis: Basis, expansion: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Pull of sources on the auxiliary functions' atoms, and the fields at the sources.

        Returns:
            (n_atoms, 3) hartree/bohr, as a gradient; (n_sources, n_hermite).
        """
        tables = self._tables
        fields = np.zeros((len(sources.degrees), tables.counts[sources.degrees.max() + 1]))

        def work(task: tuple[int, np.ndarray]) -> np.ndarray:
            degree, members = task
            gradient = np.zeros((len(auxiliary_basis.centres), 3))
            source_fields(
                tables, degree, members, sources, auxiliary_basis, expansion, fields, gradient
            )
            return gradient

        run = map if self._pool is None else self._pool.map
        # Summed in their order, so that the number of threads changes no bit.
        return np.sum(list(run(work, _tasks(sources.degrees))), axis=0), fields


def _tasks(degrees: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """Sources by total degree, some at a time."""
    tasks = []
    for degree in np.unique(degrees):
        members = np.nonzero(degrees == degree)[0]
        for start in range(0, len(members), _SOURCES_AT_ONCE):
            tasks.append((int(degree), members[start : start + _SOURCES_AT_ONCE]))
    return tasks


def _as_sources(basis: Basis, expansion: np.ndarray, tables: Tables) -> Sources:
    """The auxiliary functions of an `expand_auxiliary`."""
    atoms, degrees = basis.shells[:, 0], basis.shells[:, 1]
    n_primitives = basis.shells[:, 3] - basis.shells[:, 2]
    signs = 1.0 - 2.0 * (tables.orders[: expansion.shape[1]].sum(axis=1) % 2)
    return Sources(
        np.repeat(degrees, n_primitives),
        basis.exponents,
        basis.centres[np.repeat(atoms, n_primitives)],
        expansion * signs,
    )


def _with_nuclei(
    basis: Basis, expansion: np.ndarray, charges: np.ndarray
) -> tuple[Basis, np.ndarray]:
    """An auxiliary basis and its expansion with a narrow function of charge -Z on each atom."""
    n, first = len(charges), len(basis.exponents)
    places = first + np.arange(n)
    # The last column, a function's place in a vector, is asked for no more.
    nuclei = np.stack([np.arange(n), 0 * places, places, places + 1, 0 * places], axis=1)
    shells = np.concatenate([basis.shells, nuclei])
    rows = np.zeros((n, expansion.shape[1]))
    rows[:, 0] = -charges * (_NARROW / np.pi) ** 1.5
    joined = basis._replace(
        shells=shells[np.argsort(shells[:, 0], kind="stable")],
        exponents=np.concatenate([basis.exponents, np.full(n, _NARROW)]),
    )
    return joined, np.concatenate([expansion, rows])


@inlined
def _boys(x, highest, table, out):
    """F_0 ... F_highest of the arguments x (lanes,) into out (highest + 1, lanes)."""
    lanes = len(x)
    nodes, steps, decays = np.empty(lanes, dtype=np.int64), np.empty(lanes), np.empty(lanes)
    for w in range(lanes):
        near = min(x[w], LAST_X)
        nodes[w] = int(near * PER_UNIT + 0.5)
        steps[w] = nodes[w] / PER_UNIT - near
        decays[w] = exp_of_minus(near)
    top = out[highest]
    top[:] = 0.0
    for k in range(TERMS - 1, -1, -1):
        for w in range(lanes):
            top[w] = top[w] * steps[w] / (k + 1) + table[nodes[w], highest + k]
    for n in range(highest - 1, -1, -1):
        lower, upper, share = out[n], out[n + 1], 1.0 / (2 * n + 1)
        for w in range(lanes):
            lower[w] = (2.0 * x[w] * upper[w] + decays[w]) * share
    for w in range(lanes):
        if x[w] >= LAST_X:
            out[0, w] = 0.5 * np.sqrt(np.pi / x[w])
            for n in range(highest):
                out[n + 1, w] = (2 * n + 1) * out[n, w] / (2.0 * x[w])


@inlined
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


@inlined
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


@inlined
def _lane_field(tables, pair_degree, p, centres, hermite, auxiliary, expansion, field, gradient):
    """Field of all auxiliary functions at a few sources, and the pull on the auxiliary atoms.

    Args:
        tables: index tables.
        pair_degree: total degree of all these sources.
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
    f, alpha, x, prefactor = (
        np.empty((len(tables.counts), lanes)), np.empty(lanes), np.empty(lanes), np.empty(lanes)
    )  # fmt: skip
    field[:] = 0.0
    shell = 0
    for atom in range(len(auxiliary.centres)):
        part[:] = 0.0
        for axis in range(3):
            for w in range(lanes):
                d[axis, w] = centres[axis, w] - auxiliary.centres[atom, axis]
        while shell < len(auxiliary.shells) and auxiliary.shells[shell, 0] == atom:
            degree = auxiliary.shells[shell, 1]
            highest = pair_degree + 1 + degree
            for k in range(auxiliary.shells[shell, 2], auxiliary.shells[shell, 3]):
                q = auxiliary.exponents[k]
                for w in range(lanes):
                    alpha[w] = p[w] * q / (p[w] + q)
                    x[w] = alpha[w] * (d[0, w] ** 2 + d[1, w] ** 2 + d[2, w] ** 2)
                    prefactor[w] = 2.0 * np.pi**2.5 / (p[w] * q * np.sqrt(p[w] + q))
                _boys(x, highest, tables.boys, f)
                for n in range(highest + 1):
                    for w in range(lanes):
                        f[n, w] *= prefactor[w]
                        prefactor[w] *= -2.0 * alpha[w]
                interaction = _interaction(tables, highest, d, f, odd, even)
                _add_field(tables, n_field, expansion[k], degree, interaction, part)
            shell += 1
        for h in range(tables.counts[pair_degree]):
            for axis in range(3):
                slope, total = part[tables.sums[h, 1 + axis]], 0.0
                for w in range(lanes):
                    total += hermite[h, w] * slope[w]
                gradient[atom, axis] -= total
        field += part


@kernel
def source_fields(tables, degree, members, sources, auxiliary, expansion, fields, gradient):
    """Fields at the sources `members`, all of one total degree, a few lanes at a time.

    Fills rows of fields (n_sources, n_hermite), adds the pull on the auxiliary functions' atoms to
    gradient (n_atoms, 3).
    """
    n_hermite, n_field = tables.counts[degree], tables.counts[degree + 1]
    p, c = np.empty(_LANES), np.empty((3, _LANES))
    h, field = np.empty((n_hermite, _LANES)), np.empty((n_field, _LANES))
    for start in range(0, len(members), _LANES):
        for w in range(_LANES):
            n = members[min(start + w, len(members) - 1)]
            busy = start + w < len(members)
            p[w], c[:, w] = sources.exponents[n], sources.centres[n]
            for k in range(n_hermite):
                h[k, w] = sources.hermite[n, k] if busy else 0.0
        _lane_field(tables, degree, p, c, h, auxiliary, expansion, field, gradient)
        for w in range(min(_LANES, len(members) - start)):
            fields[members[start + w], :n_field] = field[:, w]
