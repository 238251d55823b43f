"""The table of elements is that of ASE, which the shipped data were made with."""

import ase.data
import numpy as np
from ase.units import create_units

from tg80 import constants, elements


def test_elements_are_those_of_ase():
    assert list(elements.SYMBOLS) == ase.data.chemical_symbols
    assert ase.data.atomic_numbers == elements.NUMBERS
    assert np.array_equal(elements.MASSES, ase.data.atomic_masses)
    assert np.array_equal(elements.COVALENT_RADII, ase.data.covalent_radii)


def test_constants_are_those_of_codata_2018():
    units = create_units(constants.CODATA_YEAR)
    assert units["Hartree"] == constants.EV_PER_HARTREE
    assert units["Bohr"] == constants.ANGSTROM_PER_BOHR
    assert units["kJ"] / units["mol"] == constants.EV_PER_KJ_PER_MOL
    assert units["kcal"] / units["mol"] == constants.EV_PER_KCAL_PER_MOL
    assert units["kB"] == constants.BOLTZMANN_EV_PER_K
    assert units["fs"] ** 2 == constants.ACCELERATION
