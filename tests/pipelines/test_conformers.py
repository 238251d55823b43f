"""The start geometry: conformers that fail don't sink the molecule."""

import numpy as np
import pytest

from pipelines import conformers
from tg80.chemistry.molecule import molecule_from_smiles
from tg80.errors import RunFailed


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


def test_the_start_is_a_minimum_and_no_saddle_point():
    """Relaxing boric acid keeps the symmetry of its embedding, with OH groups out of plane."""
    found = conformers.start_geometry(
        molecule_from_smiles("OB(O)O", "boric-acid"),
        n_conformers=3, n_relaxed=1, choice="lowest", temperature_k=300.0, seed=0,
    )  # fmt: skip
    assert np.linalg.eigvalsh(found.hessian)[0] > -conformers.FLAT
