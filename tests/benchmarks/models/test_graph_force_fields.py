"""MACE and NequIP on the mini set that ships along: trained, resumed, rolled out."""

import json
import os
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks.interface import CannotPredict
from benchmarks.models import Budget, make_model
from benchmarks.models.force_fields.rollout import RolloutSettings, roll_out
from tests.support import toys
from tg80.errors import UserError
from tg80.theory import get_level

# Training takes seconds on a quiet core, minutes on a busy one.
pytestmark = pytest.mark.timeout(900)

# Read before any test: mace itself would set it when it is imported.
UNPICKLES = os.environ.get("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD")
FEW = ("ethylene", "acetonitrile", "furan", "methanol")
SMALL = {
    "mace": {"n_channels": 8, "radial_widths": [8]},
    "nequip": {"n_features": 8, "n_layers": 2, "radial_width": 8},
}
TRAINING = {"windows_per_trajectory": 50, "batch_size": 5, "validations": 2, "learning_rate": 0.03}


@pytest.fixture(scope="module")
def few(mini):
    """Fold 2 of the mini set with few training molecules, so that it is soon learnt."""
    training = mini.training
    kept = tuple(t for t in training.trajectories if t.name in FEW)
    later = tuple(p for p in training.validation if p.name == "val_time")
    blocks = tuple(t for t in training.validation_blocks if t.name in FEW)
    return replace(training, trajectories=kept, validation=later, validation_blocks=blocks)


@pytest.fixture(scope="module", params=[pytest.param(m, marks=toys.NEEDS[m]) for m in SMALL])
def trained(request, few, tmp_path_factory):
    from benchmarks.models.force_fields.frames import validation_frames

    model = make_model(request.param, model=SMALL[request.param], training=TRAINING)
    out = tmp_path_factory.mktemp(request.param)
    report = model.fit(few, budget=Budget(epochs=10), seed=0, out=out)
    return model, report, validation_frames(few, model.isolated_energies())["val_time"]


def mark(test):
    for one in toys.NEEDS_MACE:
        test = one(test)
    return test


def test_the_forces_of_later_frames_are_learnt(trained):
    """Below half of what they are, in frames that nothing was learnt from."""
    model, report, held_out = trained
    errors, sizes = 0.0, 0.0
    for frames in held_out:
        off = model.forces(model.trained(), frames) - frames.forces
        errors, sizes = errors + off.square().sum(), sizes + frames.forces.square().sum()
    assert (errors / sizes) ** 0.5 < 0.5
    # Whitened, where no force at all errs by 1 in soft motions as in stiff ones.
    assert 0 < report.best_validation < 1
    assert report.longest_lag_fs is None and report.n_parameters > 1000


def test_a_rollout_keeps_its_energy_and_comes_near_the_truth(trained, mini):
    """2 meV/atom: velocity Verlet wavers by a few tenths at 0.5 fs, 300 K are 39."""
    model, _, _ = trained
    windows = mini.parts["test_time"].windows
    rows = [i for i, name in enumerate(windows.states.molecule) if name in FEW]
    states, lags = windows.states.select(rows), torch.tensor([[10.0, 120.0]]).repeat(len(rows), 1)
    found = roll_out(model.force_field(), states, lags, model.rollout)
    assert not found.failed.any()
    assert float(found.drift_mev.max()) < 2
    moved = found.positions[:, 0] - states.positions.double()
    truth = mini.parts["test_time"].curve.targets[rows, 0] - states.positions
    heavy = states.score_mask
    assert float(mini.parts["test_time"].curve.lags_fs[0, 0]) == 10
    # Persistence has the error 1.
    assert float((moved - truth)[heavy].square().sum() / truth[heavy].square().sum()) < 0.3
    positions, failed = model.predict(states, lags[:, :1])
    assert not failed.any() and bool(torch.isfinite(positions).all())


def test_forces_are_minus_the_slope_of_the_energy(trained, few):
    model, _, _ = trained
    block = few.trajectories[0]
    x = torch.from_numpy(block.positions[:1]).double()
    z = torch.from_numpy(block.atomic_numbers)[None]
    field, shift = model.force_field(), 1e-4
    _, forces = field(x, z)
    for atom, axis in ((0, 0), (1, 2), (3, 1)):
        ends = []
        for sign in (1, -1):
            moved = x.clone()
            moved[0, atom, axis] += sign * shift
            ends.append(float(field(moved, z)[0]))
        assert -(ends[0] - ends[1]) / (2 * shift) == pytest.approx(
            float(forces[0, atom, axis]), abs=1e-5
        )


def test_the_isolated_atoms_are_those_of_the_level(trained, few):
    model, _, _ = trained
    facts, level = model.known(), get_level("gfn2-xtb").isolated_atom_energies
    assert facts.elements == (1, 6, 7, 8)
    assert facts.isolated_energies == tuple(level[s] for s in "HCNO")
    z = torch.tensor([[1, 6]])
    far = torch.tensor([[[0.0, 0.0, 0.0], [0.0, 0.0, 50.0]]]).double()
    x = torch.from_numpy(few.trajectories[0].positions[:1]).double()
    near = model.force_field()(x, torch.from_numpy(few.trajectories[0].atomic_numbers)[None])[0]
    energy, _ = few.trajectories[0].labels.read()
    # Isolated atoms make up most of it, and binding, tens of eV, nearly all of the rest.
    assert abs(float(near) - energy[0]) < 2
    assert bool(torch.isfinite(model.force_field()(far, z)[0]).all())


def test_an_element_without_training_is_refused(trained):
    model, _, _ = trained
    with pytest.raises(UserError, match="no training molecule has Cl"):
        model.force_field()(torch.zeros(1, 1, 3).double(), torch.tensor([[17]]))


def test_it_learns_from_the_train_blocks_and_validates_where_all_models_do(trained, few):
    from benchmarks.models.force_fields.frames import TrainingFrames

    model, _, held_out = trained
    frames = TrainingFrames(
        few.trajectories, model.isolated_energies(), seed=0, windows_per_trajectory=30
    )
    batch = frames.__getitems__(list(range(len(frames))))
    drawn = dict(zip(batch.start_id, zip(batch.positions, batch.forces, strict=True), strict=True))
    allowed = {t.start_id(i): (t, i) for t in few.trajectories for i in range(t.n_frames)}
    assert set(drawn) <= set(allowed) and len(drawn) > 60
    name, (x, force) = next(iter(drawn.items()))
    block, frame = allowed[name]
    np.testing.assert_array_equal(x[: block.n_atoms], block.positions[frame])
    np.testing.assert_array_equal(force[: block.n_atoms], block.labels.read()[1][frame])
    starts = {s for b in held_out for s in b.start_id}
    windows = {s for p in few.validation for s in p.windows.states.start_id}
    assert starts == {s for s in windows if s.split("-r")[0] in FEW} and not starts & set(allowed)


@pytest.mark.parametrize("name", [pytest.param(m, marks=toys.NEEDS[m]) for m in SMALL])
def test_killed_training_goes_on_as_if_nothing_had_happened(name, few, tmp_path, monkeypatch):
    from benchmarks.training.trainer import Trainer

    def model():
        training = {"windows_per_trajectory": 5, "validations": 2, "batch_size": 10}
        return make_model(name, model=SMALL[name], training=training)

    def weights(of):
        return torch.cat([p.detach().flatten() for p in of.trained().parameters()])

    whole, halves = model(), model()
    whole.fit(few, budget=Budget(epochs=2), seed=3, out=tmp_path / "whole")
    after_step = Trainer._after_step

    def kill(self):
        after_step(self)
        if self.step == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Trainer, "_after_step", kill)
        halves.fit(few, budget=Budget(epochs=2), seed=3, out=tmp_path / "halves")
    assert (tmp_path / "halves" / "checkpoint.pt").exists()
    halves.fit(few, budget=Budget(epochs=2), seed=3, out=tmp_path / "halves")
    assert torch.equal(weights(whole), weights(halves))


def test_importing_it_leaves_torch_load_as_strict_as_it_was(trained):
    assert "mace.modules" in sys.modules or "nequip.model" in sys.modules
    assert torch.get_default_dtype() == torch.float32
    assert os.environ.get("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD") == UNPICKLES


def test_data_without_forces_or_with_some_atoms_only_is_refused(data):
    from benchmarks.models.force_fields.graph_data import facts_of

    heavy = [t.heavy_atoms() for t in data.training.trajectories]
    with pytest.raises(CannotPredict, match="learns from energies and forces of all atoms"):
        facts_of(data.training, heavy, 4.0)


@pytest.mark.parametrize("name", SMALL)
def test_without_the_package_one_line_says_what_to_install(name, monkeypatch, capsys):
    from benchmarks.cli import main
    from benchmarks.models.force_fields import graph_model

    monkeypatch.setattr(graph_model.importlib.util, "find_spec", lambda name: None)
    assert main(["run", "--fold", "1", "--model", name]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and f"pip install 'tg80[{name}]'" in error


@mark
def test_the_loss_is_that_of_mace_torch(trained, few):
    from mace.modules.loss import WeightedEnergyForcesLoss
    from mace.tools.torch_geometric.data import Data

    from benchmarks.models.force_fields.frames import TrainingFrames
    from benchmarks.training.batches import MicroBatch

    model, _, _ = trained
    frames = TrainingFrames(
        few.trajectories, model.isolated_energies(), seed=0, windows_per_trajectory=2
    ).__getitems__([0, 2, 4])
    total, count = model.loss("all")(model.trained(), MicroBatch(frames, 0))
    real = frames.atomic_numbers > 0
    graph = model._graph(frames.positions, frames.atomic_numbers)
    energies, forces = model.evaluate(model.trained(), graph, training=True)
    ones = torch.ones(len(energies))
    truth = Data(
        energy=frames.energies, forces=frames.forces[real], ptr=graph["ptr"],
        weight=ones, energy_weight=ones, forces_weight=ones,
    )  # fmt: skip
    theirs = WeightedEnergyForcesLoss(energy_weight=1.0, forces_weight=100.0)
    expected = theirs(truth, {"energy": energies, "forces": forces}, ddp=False)
    assert (total / count).item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_whitened_loss_is_learnt(trained, few, tmp_path):
    """From 1 for no force at all to less than half, and energies keep to their mean."""
    from benchmarks.models.force_fields.frames import TrainingFrames
    from benchmarks.models.force_fields.losses import whitening_of

    known, _, _ = trained
    model = make_model(known.id, model=SMALL[known.id] | {"whitened": True}, training=TRAINING)
    model.fit(few, budget=Budget(epochs=10), seed=0, out=tmp_path)
    frames = TrainingFrames(
        few.trajectories, model.isolated_energies(), seed=1, windows_per_trajectory=5
    )
    batch = frames.__getitems__(list(range(len(frames))))
    whitened = whitening_of(few.trajectories)
    errors = {
        m: float(whitened(batch, m.forces(m.trained(), batch)).mean()) for m in (known, model)
    }
    assert errors[model] < 0.5 and errors[model] < errors[known]


@mark
def test_settings_are_checked_and_written_down():
    with pytest.raises(UserError, match=r"unknown setting rollout\.step"):
        make_model("mace", rollout={"step": 1})
    with pytest.raises(UserError, match=r"unknown setting model\.width"):
        make_model("mace", model={"width": 8})
    settings = make_model("mace", preset="published").settings()
    assert settings["model"]["n_channels"] == 128
    assert settings["rollout"] == RolloutSettings(time_step_fs=1.0).model_dump()
    halved = make_model("mace", rollout={"time_step_fs": 0.5}).settings()
    assert halved["rollout"] == RolloutSettings().model_dump()
    json.dumps(settings)
