"""The start geometry: conformers that fail don't sink the molecule."""

import numpy as np
import pytest
from pyscf import dft, gto

from docs.experiment.published import read_computed
from pipelines import conformers
from pipelines.engines.registry import make_engine
from tg80.chemistry.molecule import molecule_from_smiles
from tg80.constants import ANGSTROM_PER_BOHR, EV_PER_HARTREE
from tg80.errors import RunFailed
from tg80.shards.vibrations import harmonic_wavenumbers
from tg80.theory import symbols_of


def start(max_steps, monkeypatch):
    monkeypatch.setattr(conformers, "MAX_STEPS", max_steps)
    return conformers.start_geometry(
        molecule_from_smiles("OCCO", "ethylene-glycol"),
        n_conformers=20, n_relaxed=4, choice="lowest", temperature_k=300.0, seed=0,
    )  # fmt: skip


def test_one_conformer_that_fails_leaves_the_others(monkeypatch):
    assert 1 <= start(40, monkeypatch).n_candidates < 4  # two of them need more steps


def test_all_conformers_that_fail_give_the_reason(monkeypatch):
    with pytest.raises(RunFailed, match="ethylene-glycol: not relaxed after 2 steps"):
        start(2, monkeypatch)


def test_wavenumbers_of_the_engine_are_those_of_an_analytic_hessian():
    """Formaldehyde at PBE/def2-SVP; PySCF's own without RI, on a finer grid."""
    molecule = molecule_from_smiles("C=O", "formaldehyde")
    engine = make_engine("pbe-def2svp", molecule.atomic_numbers)
    start = conformers.embed_one(molecule)
    _, positions = conformers.relax(molecule, engine, start)
    own = conformers.hessian(engine, positions)
    atoms = zip(symbols_of(molecule.atomic_numbers), positions.tolist(), strict=True)
    mean_field = dft.RKS(gto.M(atom=list(atoms), basis="def2-svp", verbose=0), xc="pbe")
    mean_field.grids.level, mean_field.grids.prune, mean_field.conv_tol = 5, None, 1e-11
    mean_field.kernel()
    other = mean_field.Hessian().kernel().transpose(0, 2, 1, 3).reshape(12, 12)
    other *= EV_PER_HARTREE / ANGSTROM_PER_BOHR**2
    waves = [harmonic_wavenumbers(h, molecule.masses, 6) for h in (own, other)]
    np.testing.assert_allclose(*waves, atol=1.0)
    stored = read_computed()["formaldehyde"]["pbe-def2svp"].wavenumbers
    np.testing.assert_allclose(waves[0], stored, atol=0.5)


def test_the_start_is_a_minimum_and_no_saddle_point():
    """Relaxing boric acid keeps the symmetry of its embedding, with OH groups out of plane."""
    found = conformers.start_geometry(
        molecule_from_smiles("OB(O)O", "boric-acid"),
        n_conformers=3, n_relaxed=1, choice="lowest", temperature_k=300.0, seed=0,
    )  # fmt: skip
    assert np.linalg.eigvalsh(found.hessian)[0] > -conformers.FLAT
