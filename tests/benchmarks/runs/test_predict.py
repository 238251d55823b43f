"""ATOM.predict on a trained model, and the example of docs/model/predict.md as it stands there."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import molecule
from ase.constraints import FixAtoms

from atom import ATOM
from atom.ase import BATCH_SIZE
from benchmarks.tasks.data import windows_at

PAGE = Path(__file__).parents[3] / "docs" / "model" / "predict.md"
LAGS = (20.0, 200.0)


@pytest.fixture(scope="module")
def checkpoint(mini_runs):
    (path,) = mini_runs.rglob("atom-start/*/model/atom.safetensors")
    return path


@pytest.fixture(scope="module")
def model(checkpoint):
    return ATOM.from_checkpoint(checkpoint)


def moving(name="CH3CH2OH", seed=0) -> Atoms:
    atoms = molecule(name)
    velocities = np.random.default_rng(seed).normal(0, 0.005, (len(atoms), 3))  # A/fs
    atoms.set_velocities(velocities / units.fs)
    return atoms


def test_units_are_those_of_the_model(model, mini):
    """ASE's route gives what the tensors of a window give."""
    windows = windows_at(mini, "test_id", LAGS)
    states = windows.states.select([0])
    n = int(states.atom_mask.sum())
    expected = model(
        states.positions, states.velocities, states.atomic_numbers, torch.tensor([LAGS])
    )
    start = Atoms(states.atomic_numbers[0, :n].numpy(), states.positions[0, :n].numpy())
    start.set_velocities(states.velocities[0, :n].numpy() / units.fs)
    frames = model.predict(start, LAGS)
    for frame, positions in zip(frames, expected[0, :, :n].detach().numpy(), strict=True):
        np.testing.assert_allclose(frame.positions, positions, atol=2e-5)
    moved = np.abs(frames[1].positions - start.positions).max(axis=1)
    assert (moved[start.numbers == 1] > 1e-3).all()


def test_what_the_frames_carry(model):
    start = moving()
    start.info["name"] = "ethanol"
    start.set_cell([9.0, 9.0, 9.0])
    start.arrays["forces"] = np.ones((len(start), 3))
    before = start.copy()
    frames = model.predict(start, [200.0, 20.0, 0.0])
    assert [frame.info for frame in frames] == [
        {"name": "ethanol", "time_fs": time} for time in (200.0, 20.0, 0.0)
    ]
    for frame in frames:
        assert str(frame.symbols) == str(start.symbols) and not frame.pbc.any()
        assert frame.cell.lengths().tolist() == [9.0, 9.0, 9.0]
        assert set(frame.arrays) == {"numbers", "positions"}
    np.testing.assert_allclose(frames[2].positions, start.positions, atol=1e-6)
    assert start == before and start.info == {"name": "ethanol"}


def test_many_give_what_each_gives_alone(model):
    starts = [moving(name, seed) for seed, name in enumerate(["CH4", "C6H6", "H2O"])]
    starts *= BATCH_SIZE // 3 + 2  # more than a batch
    together = model.predict(starts, LAGS)
    assert len(together) == len(starts) and model.predict([], LAGS) == []
    for i in (0, 1, 2, len(starts) - 1):
        alone = model.predict(starts[i], LAGS)
        for one, other in zip(alone, together[i], strict=True):
            np.testing.assert_allclose(one.positions, other.positions, atol=2e-5)


def test_far_from_the_origin_nothing_is_lost(model):
    near, far = moving(), moving()
    far.positions += [1e5, -2e5, 3e4]
    for one, other in zip(model.predict(near, LAGS), model.predict(far, LAGS), strict=True):
        np.testing.assert_allclose(other.positions - [1e5, -2e5, 3e4], one.positions, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "lags", "message"),
    [
        (lambda a: a.set_pbc([True, False, False]), LAGS, "atoms: periodic"),
        (lambda a: a.arrays.pop("momenta"), LAGS, "atoms: no velocities; set them by"),
        (lambda a: a.set_constraint(FixAtoms([0])), LAGS, "has constraints"),
        (lambda a: a.numbers.__setitem__(0, 0), LAGS, "atomic numbers must lie in 1..96"),
        (lambda a: a.positions.__setitem__(0, np.nan), LAGS, "not finite"),
        (lambda a: a.__delitem__(slice(None)), LAGS, "no atoms"),
        (lambda a: None, [-1.0], "none negative"),
        (lambda a: None, [], "list of finite times"),
        (lambda a: None, [np.nan], "list of finite times"),
        (lambda a: None, 100.0, "list of finite times"),
    ],
)
def test_what_is_refused(model, change, lags, message):
    atoms = moving()
    change(atoms)
    with pytest.raises(ValueError, match=message):
        model.predict(atoms, lags)


def test_the_wrong_one_of_many_is_named(model):
    with pytest.raises(ValueError, match=r"atoms\[1\]: no velocities"):
        model.predict([moving(), molecule("H2O")], LAGS)


def test_the_example_of_the_docs_runs(checkpoint, tmp_path, monkeypatch, capsys):
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    assert len(blocks) == 4
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(checkpoint.read_bytes())
    found: dict = {}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), found)
    assert [frame.info["time_fs"] for frame in found["frames"]] == [20, 50, 100, 200, 400]
    # At short times even a model of some seconds is not far from the truth.
    assert found["errors"][0][0] < 0.05
    assert [len(each) for each in found["trajectories"]] == [24] * 12
    assert (tmp_path / "ethanol.xyz").read_text().count("time_fs=") == 24
    shown = capsys.readouterr().out
    assert shown.count("standing still") == 5 and "C-C between 1." in shown
