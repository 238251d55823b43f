"""A molecule's basis functions as the plain arrays that the compiled loops work on."""

import numpy as np
from pyscf import gto

from pipelines.engines.dft.kernels.gaussians import Basis

# Values of a shell's radial part for which its reach is known.
_REACH_LEVELS = 10.0 ** -np.arange(0.0, 15.0, 0.5)
_MAX_REACH = 60.0  # bohr


def gaussian_basis(molecule: gto.Mole) -> Basis:
    """The molecule's real spherical basis functions, in PySCF's order and normalisation."""
    shells, reaches, exponents, coefficients = [], [], [], []
    function = 0
    for shell in range(molecule.nbas):
        degree = int(molecule.bas_angular(shell))
        own = molecule.bas_exp(shell)
        contractions = molecule.bas_ctr_coeff(shell) * gto.gto_norm(degree, own)[:, None]
        for weights in contractions.T:
            start = len(exponents)
            exponents += list(own)
            coefficients += list(weights)
            shells.append((molecule.bas_atom(shell), degree, start, len(exponents), function))
            reaches.append(_reaches(degree, own, weights))
            function += 2 * degree + 1
    return Basis(
        centres=np.ascontiguousarray(molecule.atom_coords()),
        shells=np.array(shells),
        reaches=np.array(reaches),
        exponents=np.array(exponents),
        coefficients=np.array(coefficients),
        transforms=_transforms(max(degree for _, degree, *_ in shells)),
    )


def moved(basis: Basis, molecule: gto.Mole) -> Basis:
    """The same functions at the molecule's present atoms."""
    return basis._replace(centres=np.ascontiguousarray(molecule.atom_coords()))


def reach_levels(values: np.ndarray) -> np.ndarray:
    """Columns of `Basis.reaches` beyond which a shell's radial part is below these values."""
    steps = np.ceil(-2.0 * np.log10(values))
    return np.clip(steps, 0, len(_REACH_LEVELS) - 1).astype(np.int64)


def _reaches(degree: int, exponents: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Distances, bohr, beyond which r^l |R| stays below each of the levels."""
    r = np.linspace(0.0, _MAX_REACH, 6001)
    radial = np.abs(r**degree * (np.exp(-np.outer(r**2, exponents)) @ weights))
    # The largest value from each distance on falls with the distance.
    beyond = np.maximum.accumulate(radial[::-1])
    first = len(r) - np.searchsorted(beyond, _REACH_LEVELS, side="right")
    return np.where(first > 0, r[np.minimum(first, len(r) - 1)], 0.0)


def _transforms(l_max: int) -> np.ndarray:
    """Monomials to solid harmonics of each degree, padded to one shape."""
    n_monomials = (l_max + 1) * (l_max + 2) // 2
    transforms = np.zeros((l_max + 1, n_monomials, 2 * l_max + 1))
    for degree in range(l_max + 1):
        own = gto.cart2sph(degree)
        transforms[degree, : own.shape[0], : own.shape[1]] = own
    return transforms
