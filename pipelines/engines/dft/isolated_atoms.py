"""Energies of the isolated atoms at every level: `python -m pipelines.engines.dft.isolated_atoms`.

Kohn-Sham atoms are spin-unrestricted ground states, converged to a stable solution without
symmetry (a single determinant breaks the sphere of an open p shell; that is the usual reference of
atomisation energies). GFN2-xTB has no spin polarisation: its atoms have the right number of
unpaired electrons, but lack the exchange stabilisation, as does every GFN2-xTB energy.
"""

import argparse
import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyscf
from pyscf import dft, gto
from tblite.interface import Calculator as TbliteCalculator

import tg80
from pipelines.engines.dft.hamiltonian import core_potentials_of, make_mean_field
from pipelines.engines.threads import ThreadLimit
from tg80.constants import BOLTZMANN_EV_PER_K, EV_PER_HARTREE
from tg80.errors import RunFailed
from tg80.files import write_atomically
from tg80.theory import LEVELS, UNPAIRED_ELECTRONS, Level, atomic_number_of

DESTINATION = Path(tg80.__file__).parent / "data" / "levels" / "isolated_atoms.json"
_ABOUT = (
    "Ground-state energies of isolated atoms in eV, by level of theory and element. Kohn-Sham: "
    "spin-unrestricted, stable solutions. GFN2-xTB: the right number of unpaired electrons, no "
    "spin polarisation. Made by python -m pipelines.engines.dft.isolated_atoms."
)


def isolated_atom_energy(level: Level, symbol: str) -> float:
    """Energy in eV of one ground-state atom at a level of theory.

    Raises:
        RunFailed: no stable self-consistent solution was found.
    """
    if level.method == "xtb":
        return _xtb_atom(level, symbol)
    return _kohn_sham_atom(level, symbol)


def _xtb_atom(level: Level, symbol: str) -> float:
    calculator = TbliteCalculator(
        level.functional,
        np.array([atomic_number_of(symbol)]),
        np.zeros((1, 3)),
        uhf=UNPAIRED_ELECTRONS[symbol],
    )
    assert level.electronic_temperature_k is not None
    temperature = level.electronic_temperature_k * BOLTZMANN_EV_PER_K / EV_PER_HARTREE
    calculator.set("verbosity", 0)
    calculator.set("accuracy", level.accuracy)
    calculator.set("temperature", temperature)
    return float(calculator.singlepoint().get("energy")) * EV_PER_HARTREE


def _kohn_sham_atom(level: Level, symbol: str) -> float:
    atom = gto.M(
        atom=symbol, basis=level.basis, spin=UNPAIRED_ELECTRONS[symbol], verbose=0,
        ecp=core_potentials_of(level, [symbol]),
    )  # fmt: skip
    mean_field = make_mean_field(dft.UKS, level, atom, only_dfj=True).newton()
    mean_field.conv_tol = 1e-10
    mean_field.conv_tol_grad = 1e-5
    mean_field.max_cycle = 200
    mean_field.kernel()
    for _ in range(5):
        orbitals, _, stable, _ = mean_field.stability(return_status=True)
        if stable and mean_field.converged:
            return float(mean_field.e_tot) * EV_PER_HARTREE
        mean_field.kernel(mean_field.make_rdm1(orbitals, mean_field.mo_occ))
    raise RunFailed(f"atom {symbol} at {level.name}: no stable self-consistent solution")


def main() -> None:
    """Compute all atoms of all levels and write the table the levels read."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=DESTINATION)
    arguments = parser.parse_args()
    energies: dict[str, dict[str, float]] = {}
    with ThreadLimit(1), pyscf.lib.with_omp_threads(1):
        for level in LEVELS.values():
            energies[level.name] = {
                symbol: round(isolated_atom_energy(level, symbol), 6) for symbol in level.elements
            }
            print(level.name, energies[level.name], flush=True)
    table = {
        "about": _ABOUT,
        "versions": {package: version(package) for package in ("pyscf", "tblite")},
        "unpaired_electrons": UNPAIRED_ELECTRONS,
        "energies_ev": energies,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(arguments.out, (json.dumps(table, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
