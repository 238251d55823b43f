"""Symbols, masses and covalent radii of the elements by atomic number; 0 stands for none.

References:
    Standard atomic weights: IUPAC 2016 (the most stable isotope where there is none).
    Covalent radii: Cordero et al., doi:10.1039/b801115j. Both as tabulated by ASE.
"""

import csv
from importlib import resources

import numpy as np

with (resources.files("tg80") / "data" / "elements.csv").open(encoding="utf-8") as _stream:
    _rows = list(csv.DictReader(_stream))

SYMBOLS = tuple(row["symbol"] for row in _rows)
NUMBERS = {symbol: number for number, symbol in enumerate(SYMBOLS)}
MASSES = np.array([float(row["mass_u"]) for row in _rows])
"""(119,) u."""
COVALENT_RADII = np.array([float(row["covalent_radius_angstrom"]) for row in _rows])
"""(119,) A."""
