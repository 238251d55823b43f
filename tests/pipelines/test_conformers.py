"""The start geometry: conformers that fail don't sink the molecule."""

import pytest

from pipelines import conformers
from tg80.errors import RunFailed
from tg80.molecules import molecule_from_smiles


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
