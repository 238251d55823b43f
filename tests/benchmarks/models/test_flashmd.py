"""FlashMD: its steps, how they are composed, and what is said where it is missing."""

import numpy as np
import pytest
import torch

from benchmarks.models import Budget, make_model
from benchmarks.models.flashmd.steps import TrainingSteps, steps_at
from benchmarks.testing import ask, starts
from benchmarks.training.batches import DrawnLags
from tests.support import toys
from tg80.constants import masses_of
from tg80.errors import UserError


def mark(test):
    for one in toys.NEEDS["flashmd"]:
        test = one(test)
    return test


@pytest.fixture(scope="module")
def fitted(data, tmp_path_factory):
    model = make_model("flashmd", **toys.TINY_FLASHMD)
    report = model.fit(
        data.training, budget=Budget(epochs=20), seed=0, out=tmp_path_factory.mktemp("flashmd")
    )
    assert report.history[-1]["validation_error"] < report.history[0]["validation_error"]
    return model


def test_steps_know_the_velocities_at_their_end():
    blocks = toys.toy_trajectories()[:3]
    steps = steps_at(blocks, (0, 5, 7), 20.0)
    for row, (block, start) in enumerate(zip(blocks, (0, 5, 7), strict=True)):
        n = block.n_atoms
        np.testing.assert_array_equal(steps.targets[row, 0, :n], block.positions[start + 2])
        np.testing.assert_array_equal(steps.later[row, :n], block.velocities[start + 2])


def test_training_steps_are_turned_as_a_whole():
    """Whatever the rotation, positions and velocities keep their products."""
    blocks = toys.toy_trajectories()[:2]
    windows = TrainingSteps(blocks, DrawnLags((20.0,), 1.0), seed=3, windows_per_trajectory=4)
    batch = windows.__getitems__(list(range(len(windows))))
    for row, name in enumerate(batch.start_id):
        block = blocks[row // 4]
        frame = next(i for i in range(block.n_frames) if block.start_id(i) == name)
        assert not np.allclose(batch.positions[row, : block.n_atoms], block.positions[frame])
        found = (batch.positions[row] * batch.later[row]).sum(1)[: block.n_atoms]
        expected = (block.positions[frame] * block.velocities[frame + 2]).sum(1)
        np.testing.assert_allclose(found, expected, atol=1e-6)


@mark
def test_the_centre_of_mass_flies_on_and_the_path_is_smooth(fitted, data):
    states = starts(data, fitted)
    mass = torch.from_numpy(masses_of(states.atomic_numbers.numpy())) * states.atom_mask

    def centre(x):
        return (mass[..., None] * x).sum(-2) / mass.sum(1)[:, None]

    lags = (10.0, 20.0, 70.0)
    positions = ask(fitted, states, lags)
    for p, lag in enumerate(lags):
        expected = centre(states.positions) + lag * centre(states.velocities)
        torch.testing.assert_close(centre(positions[:, p].double()), expected, atol=1e-4, rtol=0)
    # Between two steps the path leaves and arrives with their velocities.
    at = ask(fitted, states, (0.0, 0.01, 9.99, 10.0, 10.01)).double()
    torch.testing.assert_close(at[:, 0], states.positions.double(), atol=1e-5, rtol=0)
    torch.testing.assert_close(
        (at[:, 1] - at[:, 0]) / 0.01, states.velocities.double(), atol=2e-4, rtol=0
    )
    torch.testing.assert_close(at[:, 3] - at[:, 2], at[:, 4] - at[:, 3], atol=1e-5, rtol=0)


@mark
def test_a_step_is_a_whole_number_of_stored_frames(data):
    model = make_model("flashmd", **toys.TINY_FLASHMD | {"model": {"stride_fs": 17.0, "width": 8}})
    model.initialise(data.training, seed=0)
    assert model.known().stride_fs == 20.0


@mark
def test_an_element_without_training_is_refused(fitted, data):
    states = starts(data, fitted).select([0])
    states.atomic_numbers[0, 0] = 17
    with pytest.raises(UserError, match="no training molecule has Cl"):
        ask(fitted, states)


def test_without_metatrain_one_line_says_what_to_install(monkeypatch, capsys):
    from benchmarks.cli import main
    from benchmarks.models.flashmd import model

    monkeypatch.setattr(model.importlib.util, "find_spec", lambda name: None)
    assert main(["run", "--fold", "1", "--model", "flashmd"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "pip install 'tg80[flashmd]'" in error
