"""The Coulomb energy's matrix and gradient with the density fitted in an auxiliary basis (RI-J).

The gradient comes with that of the attraction by the nuclei, whose field is but part of one.

References:
    Eichkorn, Treutler, Oehm, Haeser, Ahlrichs, doi:10.1016/0009-2614(95)00621-A.
"""

from typing import Any

import numpy as np
import scipy.linalg
from pyscf import df, gto
from pyscf.lib import pack_tril, unpack_tril

from pipelines.engines.dft.kernels.basis import gaussian_basis, moved
from pipelines.engines.dft.kernels.pair_forces import PairForces

# Auxiliary functions whose integrals are held at once where not all are kept.
_AUXILIARY_AT_ONCE = 24


class FittedCoulomb:
    """RI-J of one molecule, geometry after geometry.

    Three-centre integrals are kept for a geometry if they fit into memory; else they are evaluated
    anew for every matrix.

    Args:
        molecule: PySCF molecule, moved by its owner.
        auxiliary_basis: name of the auxiliary basis, or PySCF's dictionary of one.
        max_bytes: memory for the integrals.
        threads: CPU threads of the gradient.

    Attributes:
        keeps_integrals: whether they fit.
    """

    def __init__(
        self, molecule: gto.Mole, auxiliary_basis: Any, max_bytes: float, threads: int = 1
    ):
        self._molecule = molecule
        self._auxiliary: Any = df.addons.make_auxmol(molecule, auxiliary_basis)
        self.keeps_integrals = (
            8 * molecule.nao * (molecule.nao + 1) // 2 * self._auxiliary.nao <= max_bytes
        )
        # The same memory for every geometry: so many new pages cost a tenth of the integrals.
        self._store: np.ndarray | None = None
        self._kept = np.empty((0, 0))
        self._metric: Any = None
        self._ranges = _ranges(self._auxiliary)
        self._orbital_basis = gaussian_basis(molecule)
        self._auxiliary_basis = gaussian_basis(self._auxiliary)
        self._engine = PairForces(
            self._orbital_basis, self._auxiliary_basis, molecule.atom_charges(), threads
        )

    def move(self) -> None:
        """Follow the molecule to its new geometry."""
        self._auxiliary.set_geom_(self._molecule.atom_coords(), unit="Bohr")
        self._metric = scipy.linalg.cho_factor(self._auxiliary.intor("int2c2e"), lower=True)
        if self.keeps_integrals:
            self._kept = self._integrals(0, self._auxiliary.nbas, self._store)
            self._store = self._kept

    def _integrals(self, first: int, last: int, store: np.ndarray | None = None) -> np.ndarray:
        """(n_pairs, n_functions) of auxiliary shells first ... last - 1, in `store` if given."""
        n_shells = self._molecule.nbas
        n_all = (0, n_shells, 0, n_shells, n_shells + first, n_shells + last)
        both = self._molecule + self._auxiliary
        return both.intor("int3c2e", aosym="s2ij", out=store, shls_slice=n_all)

    def _blocks(self):
        if self.keeps_integrals:
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
        """Gradient (n_atoms, 3), hartree/bohr, at a fixed density matrix.

        Of the Coulomb energy and of the attraction by point charges, those that PySCF's molecule
        leaves to its nuclei.
        """
        orbital_basis = moved(self._orbital_basis, self._molecule)
        auxiliary_basis = moved(self._auxiliary_basis, self._auxiliary)
        return self._engine.gradient(orbital_basis, density, auxiliary_basis, self.fit(density))


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
