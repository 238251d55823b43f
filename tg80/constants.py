"""Physical constants and atomic masses, in one place.

Units of the code everywhere: angstrom, femtosecond, electronvolt, dalton, elementary charge.

References:
    CODATA 2018, doi:10.1103/RevModPhys.93.025010; units that follow from them as ASE derives them.
"""

import numpy as np

from tg80.elements import MASSES

CODATA_YEAR = "2018"

EV_PER_HARTREE = 27.211386245769308
ANGSTROM_PER_BOHR = 0.5291772109061085
EV_PER_ANGSTROM_PER_HARTREE_PER_BOHR = EV_PER_HARTREE / ANGSTROM_PER_BOHR
EV_PER_KJ_PER_MOL = 0.010364269656262174
EV_PER_KCAL_PER_MOL = 0.04336410424180094
BOLTZMANN_EV_PER_K = 8.617333262145179e-05
# Acceleration in A/fs^2 of 1 u under 1 eV/A.
ACCELERATION = 0.00964853321566533
# Wavenumber in cm-1 of one oscillation a fs.
WAVENUMBER_FS = 33356.40951981521


def masses_of(atomic_numbers) -> np.ndarray:
    """Standard atomic weights, shape (n_atoms,), in dalton, of the given atomic numbers."""
    return MASSES[np.asarray(atomic_numbers, dtype=int)]
