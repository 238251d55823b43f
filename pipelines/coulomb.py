"""The Coulomb energy's matrix and gradient with the density fitted in an auxiliary basis (RI-J).

References:
    Eichkorn, Treutler, Oehm, Haeser, Ahlrichs, doi:10.1016/0009-2614(95)00621-A.
"""

from typing import Any

import numpy as np
import scipy.linalg
from numba import njit
from pyscf import df, gto
from pyscf.lib import pack_tril, unpack_tril

# Auxiliary functions whose derivative integrals are held at once: few enough for the cache.
_AUXILIARY_AT_ONCE = 24


class FittedCoulomb:
    """RI-J of one molecule, geometry after geometry.

    Three-centre integrals are kept for a geometry if they fit into memory; else they are evaluated
    anew for every matrix.

    Args:
        molecule: PySCF molecule, moved by its owner.
        auxiliary_basis: name of the auxiliary basis, or PySCF's dictionary of one.
        max_bytes: memory for the integrals.
    """

    def __init__(self, molecule: gto.Mole, auxiliary_basis: Any, max_bytes: float):
        self._molecule = molecule
        self._auxiliary: Any = df.addons.make_auxmol(molecule, auxiliary_basis)
        self._keep = 8 * molecule.nao * (molecule.nao + 1) // 2 * self._auxiliary.nao <= max_bytes
        self._kept = np.empty((0, 0))
        self._metric: Any = None
        self._ranges = _ranges(self._auxiliary)

    def move(self) -> None:
        """Follow the molecule to its new geometry."""
        self._auxiliary.set_geom_(self._molecule.atom_coords(), unit="Bohr")
        self._metric = scipy.linalg.cho_factor(self._auxiliary.intor("int2c2e"), lower=True)
        if self._keep:
            self._kept = self._integrals(0, self._auxiliary.nbas)

    def _integrals(self, first: int, last: int) -> np.ndarray:
        """(n_pairs, n_functions) of the auxiliary shells first ... last - 1."""
        n_shells = self._molecule.nbas
        n_all = (0, n_shells, 0, n_shells, n_shells + first, n_shells + last)
        both = self._molecule + self._auxiliary
        return both.intor("int3c2e", aosym="s2ij", shls_slice=n_all)

    def _blocks(self):
        if self._keep:
            yield slice(None), self._kept
            return
        for first, last, functions in self._ranges:
            yield functions, self._integrals(first, last)

    def fit(self, density: np.ndarray) -> np.ndarray:
        """Coefficients (n_auxiliary,) of the fitted density matrix (n_basis, n_basis)."""
        # Off-diagonal pairs are stored once and count twice.
        packed = pack_tril(2.0 * density - np.diag(np.diag(density)))
        projections = np.empty(self._auxiliary.nao)
        for functions, integrals in self._blocks():
            projections[functions] = packed @ integrals
        return scipy.linalg.cho_solve(self._metric, projections)

    def matrix(self, density: np.ndarray) -> np.ndarray:
        """Coulomb matrix (n_basis, n_basis), hartree, of a density matrix."""
        fitted = self.fit(density)
        packed = sum(integrals @ fitted[functions] for functions, integrals in self._blocks())
        return unpack_tril(packed)

    def gradient(self, density: np.ndarray) -> np.ndarray:
        """Gradient (n_atoms, 3), hartree/bohr, of the Coulomb energy at a fixed density matrix.

        Derivatives by the auxiliary functions' centres follow from those by the basis functions',
        as the integrals don't change when everything moves together.
        """
        fitted = self.fit(density)
        by_function = np.zeros((3, self._molecule.nao))
        by_auxiliary = np.einsum("xpq,q->xp", self._auxiliary.intor("int2c2e_ip1"), fitted)
        both = self._molecule + self._auxiliary
        n = self._molecule.nbas
        largest = max(functions.stop - functions.start for *_, functions in self._ranges)
        buffer = np.empty(3 * self._molecule.nao**2 * largest)
        for first, last, functions in self._ranges:
            integrals = both.intor(
                "int3c2e_ip1", comp=3, aosym="s1", out=buffer,
                shls_slice=(0, n, 0, n, n + first, n + last),
            )  # fmt: skip
            _add_pulls(
                integrals.transpose(0, 3, 2, 1), density, fitted[functions],
                by_function, by_auxiliary[:, functions],
            )  # fmt: skip
        gradient = -2.0 * _by_atom(self._molecule, by_function)
        return gradient + _by_atom(self._auxiliary, by_auxiliary * fitted)


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract", "nsz"})
def _add_pulls(integrals, density, fitted, by_function, by_auxiliary):
    """Contracts derivative integrals (3, n_auxiliary, n_basis, n_basis) with the density.

    Adds the derivative along each direction by basis function, weighted with `fitted`, to
    by_function (3, n_basis), and twice that by auxiliary function, not weighted, to by_auxiliary.
    """
    n_basis = len(density)
    for x in range(3):
        pulls = by_function[x]
        for p in range(len(fitted)):
            weight, total = fitted[p], 0.0
            for j in range(n_basis):
                row, weights = integrals[x, p, j], density[j]
                for i in range(n_basis):
                    pull = row[i] * weights[i]
                    total += pull
                    pulls[i] += weight * pull
            by_auxiliary[x, p] += 2.0 * total


def _by_atom(molecule: Any, by_function: np.ndarray) -> np.ndarray:
    """Sums (3, n_functions) over the functions of each atom into (n_atoms, 3)."""
    ranges = molecule.aoslice_by_atom()[:, 2:]
    return np.array([by_function[:, start:stop].sum(axis=1) for start, stop in ranges])


def _ranges(auxiliary: Any) -> list[tuple[int, int, slice]]:
    """Shell ranges of a bounded number of functions: first, last + 1, slice of functions."""
    starts = auxiliary.ao_loc
    ranges, first = [], 0
    for shell in range(1, auxiliary.nbas + 1):
        end = shell == auxiliary.nbas
        if end or starts[shell + 1] - starts[first] > _AUXILIARY_AT_ONCE:
            ranges.append((first, shell, slice(int(starts[first]), int(starts[shell]))))
            first = shell
    return ranges
