"""Forces measured from positions."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from atom.valence.topology import topologies_of
from benchmarks.interface import Budget, CannotPredict
from benchmarks.models import make_model
from benchmarks.models.force_fields.frames import labels_of
from benchmarks.models.force_fields.losses import whitening_of
from benchmarks.models.modes.coarse import reference_of
from benchmarks.models.modes.measured import FRAMES_A_WINDOW, MotionWindows, with_measured_forces
from benchmarks.models.trivial import mean_structures
from benchmarks.tasks.states import start_states
from tg80.constants import ACCELERATION, masses_of
from tg80.dataset import load
from tg80.windows.lags import LagSampling
from tg80.windows.trajectories import Trajectory
from tg80.windows.windows import TrainingWindows

NAMES = ("ethylene", "methanol")
H_FS = 2.0


@pytest.fixture(scope="module")
def published():
    """Frames 10 fs and 2 fs apart of two published compounds."""
    data = load("tg80-xtb-v1")
    return {n: (data.trajectory(n, 0), data.trajectory(n, 1)) for n in NAMES}


def swinging(frequency, n_frames=40):
    """One atom on a spring, and its forces."""
    phase = frequency * H_FS * np.arange(n_frames)
    x = np.zeros((n_frames, 1, 3), dtype=np.float64)
    v = np.zeros_like(x)
    x[:, 0, 0], v[:, 0, 0] = np.cos(phase), -frequency * np.sin(phase)
    block = Trajectory("spring", 0, x, v, np.array([6]), None, H_FS)
    forces = -(frequency**2) * x * masses_of(np.array([6]))[:, None] / ACCELERATION
    return block, forces


@pytest.mark.parametrize("wavenumber", [200.0, 1000.0, 3000.0])
def test_the_force_of_a_spring_is_right_to_eighth_order(wavenumber):
    frequency = 2 * np.pi * 2.99792458e-5 * wavenumber
    block, forces = swinging(frequency)
    (measured,) = with_measured_forces([block])
    _, found = measured.labels.read()
    share = 1 - (frequency * H_FS) ** 8 / 3150
    inner = np.abs(forces[4:-4]) > 0.1 * np.abs(forces).max()
    np.testing.assert_allclose(found[inner] / forces[4:-4][inner], share, atol=5e-4)
    np.testing.assert_array_equal(measured.positions, block.positions[4:-4])


@pytest.mark.parametrize("name", NAMES)
def test_measured_forces_are_those_that_were_stored(published, name):
    """But for what velocity Verlet does to the path: w^2 (1 + (w dt)^2/12), 0.6 % of a C-H stretch
    at 0.5 fs."""
    block = published[name][1]
    (measured,) = with_measured_forces([block])
    _, found = measured.labels.read()
    stored = block.labels.read()[1][4:-4]
    assert np.sqrt(np.square(found - stored).mean() / np.square(stored).mean()) < 0.015
    assert 1.003 < (found * stored).sum() / np.square(stored).sum() < 1.006
    assert float(whitening_of([measured]).roots.abs().max()) > 0


def test_rounded_positions_are_no_forces_where_frames_are_near():
    """Frames of 1 fs, stored to 2^-15 A, against the forces of DFT."""
    block = load("tg80-dft-v1").trajectory("benzene", 0)
    (measured,) = with_measured_forces([block])
    labels = labels_of(block)
    kept = (labels.frames >= 8) & (labels.frames < block.n_frames - 8)
    found = measured.labels.read()[1][labels.frames[kept] - 8]
    stored = labels.forces[kept]
    heavy = block.atomic_numbers > 1
    assert measured.n_frames == block.n_frames - 16
    error = np.square(found - stored)[:, heavy].mean() / np.square(stored)[:, heavy].mean()
    assert np.sqrt(error) < 0.02


def test_frames_too_far_apart_have_no_measured_forces(published):
    coarse, fine = published["ethylene"]
    assert with_measured_forces([coarse]) == []
    assert with_measured_forces([fine.frames(0, 9)]) == []


def test_frames_stand_beside_windows_and_depend_on_their_numbers_alone(published):
    lags = LagSampling((120.0, 240.0), 0.5, 960.0)
    coarse = [blocks[0] for blocks in published.values()]
    fine = with_measured_forces([blocks[1] for blocks in published.values()])
    made = [
        MotionWindows(TrainingWindows(coarse, lags, seed=3, windows_per_trajectory=8), fine)
        for _ in range(2)
    ]
    # Frames 2 n and 2 n + 1 of 16, eight a molecule, stand beside window n.
    batch, again = made[0].__getitems__([1, 9, 13]), made[1].__getitems__([9])
    assert batch.molecule == ("ethylene", "methanol", "methanol")
    assert batch.frames.molecule == ("ethylene",) * 4 + ("methanol",) * 2
    mine = slice(FRAMES_A_WINDOW, 2 * FRAMES_A_WINDOW)
    assert torch.equal(batch.frames.forces[mine, :6], again.frames.forces[:, :6])
    assert torch.equal(batch.positions[1, :6], again.positions[0, :6])
    assert made[0].sizes() == made[0].plain.sizes() and len(made[0]) == len(made[0].plain)


def test_atom_modes_takes_finer_frames_where_every_molecule_has_them(mini):
    model, few = make_model("atom-modes"), mini.training
    assert not isinstance(model.windows(few, 0), MotionWindows)
    fine = tuple(replace(block, frame_fs=H_FS) for block in few.trajectories)
    assert isinstance(model.windows(replace(few, finer=fine), 0), MotionWindows)
    assert not isinstance(model.windows(replace(few, finer=fine[:1]), 0), MotionWindows)


def test_atom_modes_learns_no_later_frames_than_asked_for(mini):
    model = make_model("atom-modes", training={"train_frames": 64})
    blocks = model.windows(mini.training, 0).trajectories
    assert len(blocks) == 2 * len(mini.training.trajectories)
    first = [block.positions[:64] for block in mini.training.trajectories]
    both = [*first, *(positions[::-1] for positions in first)]
    for block, positions in zip(blocks, both, strict=True):
        np.testing.assert_array_equal(block.positions, positions)


def test_atom_modes_wants_all_atoms(mini, tmp_path):
    hidden = replace(mini.training, task=mini.training.task.on_track("heavy-input"))
    with pytest.raises(CannotPredict, match="atom-modes needs all atoms; heavy-input hides some"):
        make_model("atom-modes").fit(hidden, budget=Budget(epochs=1), seed=0, out=tmp_path)


def test_bonds_are_those_of_frames_where_a_methyl_group_turns():
    """In the mean structure its hydrogen atoms fall together."""
    block = load("mini-xtb").trajectory("toluene", 0).frames(0, 700)
    mean = torch.from_numpy(mean_structures([block])["toluene"])[None]
    numbers = torch.from_numpy(block.atomic_numbers)[None]
    assert len(topologies_of(mean, numbers)[0].bonds) > 15
    (geometry,) = reference_of([block], torch.device("cpu")).geometries
    assert len(geometry.layout.topology.bonds) == 15


def test_atom_modes_learns_measured_forces_and_leaves_the_start_right(mini, published, tmp_path):
    """Motion over 10 fs, of which the start's velocity and force are the most, after 60 steps."""
    blocks = [blocks[0].frames(0, 300) for blocks in published.values()]
    fine = tuple(blocks[1] for blocks in published.values())
    data = replace(mini.training, trajectories=tuple(blocks), finer=fine, validation=())
    training = {"windows_per_trajectory": 48, "validations": 4}
    model = make_model("atom-modes", model={"n_blocks": 1, "width": 16}, training=training)
    report = model.fit(data, budget=Budget(epochs=10), seed=0, out=tmp_path)
    losses = [row["training_loss"] for row in report.history]
    assert losses[-1] < 0.4 * losses[0]
    windows = TrainingWindows(blocks, LagSampling((10.0,), 1.0), seed=1, windows_per_trajectory=8)
    batch = windows.__getitems__(list(range(16)))
    states = start_states(batch, "all")
    found, _ = model.predict(states, batch.lags_fs)
    flown = states.positions[:, None] + batch.lags_fs[..., None, None] * states.velocities[:, None]
    error, still, free = (
        float((x - batch.targets).square().mean())
        for x in (found, states.positions[:, None], flown)
    )
    assert error < 0.1 * still and error < 0.2 * free
