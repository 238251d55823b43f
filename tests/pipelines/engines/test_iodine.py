"""Iodine, whose inner electrons are an effective core potential, against stock PySCF."""

from typing import Any

import numpy as np
import pytest
from ase.data import chemical_symbols
from pyscf import df, dft, gto

from pipelines.engines.registry import make_engine
from pipelines.recipe import Recipe
from pipelines.run.folder import open_run
from pipelines.trajectory import Trajectory
from tests.support.structures import directional_derivatives
from tg80.chemistry.lists import MoleculeList
from tg80.chemistry.molecule import molecule_from_smiles
from tg80.constants import EV_PER_ANGSTROM_PER_HARTREE_PER_BOHR, EV_PER_HARTREE
from tg80.shards.shard import Shard
from tg80.shards.validate import validate
from tg80.theory import get_level

MOLECULES = {
    "HI": ([53, 1], [[0.0, 0.0, 0.0], [0.0, 0.1, 1.62]]),
    "IBr": ([53, 35], [[0.0, 0.0, 0.0], [0.1, 0.0, 2.5]]),
    "CH3I": (
        [53, 6, 1, 1, 1],
        [[0, 0, 0], [0, 0, 2.14], [0, 1.03, 2.5], [0.89, -0.51, 2.47], [-0.89, -0.53, 2.45]],
    ),
}
# Auxiliary basis and grid level, as docs and design have them.
STOCK = {
    "pbe-def2svp": ("def2-universal-jkfit", 3),
    "pbe-def2svp-tight": ("even-tempered", 4),
    "pbe-def2svp-exact": (None, 5),
}
CASES = [
    pytest.param(level, name, marks=() if name == "HI" else pytest.mark.slow)
    for level in STOCK
    for name in MOLECULES
]


@pytest.mark.parametrize(("level", "name"), CASES)
def test_energy_and_forces_are_those_of_stock_pyscf(level, name):
    numbers, positions = MOLECULES[name]
    ours = make_engine(level, numbers).evaluate(np.array(positions))
    energy, forces = stock(level, numbers, positions)
    assert ours.energy / EV_PER_HARTREE == pytest.approx(energy, abs=3e-8)
    assert np.abs(ours.forces / EV_PER_ANGSTROM_PER_HARTREE_PER_BOHR - forces).max() < 2e-6
    assert ours.charges.sum() == pytest.approx(0.0, abs=1e-8)


def stock(level, numbers, positions):
    """Energy, hartree, and forces (n_atoms, 3), hartree/bohr, by PySCF's own classes."""
    atoms = [
        (chemical_symbols[number], place) for number, place in zip(numbers, positions, strict=True)
    ]
    molecule = gto.M(atom=atoms, basis="def2-SVP", ecp={"I": "def2-SVP"}, verbose=0)
    fitted_in, grid_level = STOCK[level]
    field: Any = dft.RKS(molecule, xc="PBE")
    if fitted_in is not None:
        even_tempered = fitted_in == "even-tempered"
        field = field.density_fit(df.aug_etb(molecule, 1.8) if even_tempered else fitted_in)
    field.grids.level, field.small_rho_cutoff = grid_level, 0.0
    field.conv_tol, field.conv_tol_grad = 1e-11, 1e-7
    energy = field.kernel()
    method = field.nuc_grad_method()
    method.grid_response = True
    return energy, -method.kernel()


def test_forces_are_minus_the_slope_of_the_energy():
    numbers, positions = MOLECULES["HI"]
    engine = make_engine("pbe-def2svp-tight", numbers)
    analytic, numerical = directional_derivatives(engine, np.array(positions), 2e-3)
    assert analytic == pytest.approx(numerical, abs=2e-4)


def test_the_atoms_energies_make_sense_of_a_bond():
    """PBE binds HI by 3.2 eV or so (3.1 by experiment)."""
    numbers, positions = MOLECULES["HI"]
    level = get_level("pbe-def2svp")
    atoms = level.isolated_atom_energies["H"] + level.isolated_atom_energies["I"]
    bond = atoms - make_engine(level, numbers).evaluate(np.array(positions)).energy
    assert bond == pytest.approx(3.2, abs=0.4)


@pytest.mark.parametrize("level", ["gfn2-xtb", pytest.param("pbe-def2svp", marks=pytest.mark.slow)])
def test_iodomethane_becomes_a_valid_shard(level, tmp_path):
    settings = {
        "level": level, "length_fs": 20, "pre_equilibration_fs": 20, "equilibration_fs": 5,
        "segment_fs": 20, "n_conformers": 2,
    }  # fmt: skip
    recipe = Recipe.model_validate(settings)
    molecule = molecule_from_smiles("CI", "iodomethane")
    open_run(tmp_path, recipe, MoleculeList("list", [molecule]))
    trajectory = Trajectory(tmp_path, molecule, recipe, 0)
    while trajectory.prepare().name != "prepared":
        pass
    while trajectory.produce().name != "done":
        pass
    assert [
        problem for problem in validate(trajectory.shard_path) if problem.level == "error"
    ] == []
    with Shard(trajectory.shard_path) as shard:
        iodine = list(shard.atomic_numbers).index(53)
        assert shard.masses[iodine] == pytest.approx(126.904, abs=1e-3)
        distances = np.linalg.norm(
            shard.read("positions")[:, iodine] - shard.read("positions")[:, 0], axis=1
        )
        assert 2.0 < distances[distances > 0].mean() < 2.3
