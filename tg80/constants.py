"""Physical constants and atomic masses, in one place.

Units of the code everywhere: angstrom, femtosecond, electronvolt, dalton, elementary charge.

References:
    CODATA 2018 as tabulated by ASE, doi:10.1103/RevModPhys.93.025010; masses: IUPAC standard
    atomic weights as tabulated by ASE.
"""

import numpy as np
from ase.data import atomic_masses
from ase.units import create_units

CODATA_YEAR = "2018"
_units = create_units(CODATA_YEAR)

EV_PER_HARTREE = float(_units["Hartree"])
ANGSTROM_PER_BOHR = float(_units["Bohr"])
EV_PER_ANGSTROM_PER_HARTREE_PER_BOHR = EV_PER_HARTREE / ANGSTROM_PER_BOHR
EV_PER_KJ_PER_MOL = float(_units["kJ"] / _units["mol"])
EV_PER_KCAL_PER_MOL = float(_units["kcal"] / _units["mol"])
BOLTZMANN_EV_PER_K = float(_units["kB"])
# Acceleration in A/fs^2 of 1 u under 1 eV/A: ASE's time unit is sqrt(u A^2 / eV).
ACCELERATION = float((_units["fs"]) ** 2)


def masses_of(atomic_numbers) -> np.ndarray:
    """Standard atomic weights, shape (n_atoms,), in dalton, of the given atomic numbers."""
    return np.asarray(atomic_masses, dtype=float)[np.asarray(atomic_numbers, dtype=int)]
