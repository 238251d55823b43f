import math
import shutil
import time

import pytest
import torch

from benchmarks.models import Budget, make_model
from benchmarks.models.atom import TRAINING
from benchmarks.training import checkpoint
from benchmarks.training.trainer import CHECKPOINT, Trainer, TrainingSettings, pick_device
from tests.support import toys
from tg80.errors import CorruptFile, RunFailed, UserError
from tg80.windows.lags import LagSampling
from tg80.windows.windows import TrainingWindows

BUDGET = Budget(epochs=2)
SETTINGS = TrainingSettings(
    batch_size=4, windows_per_trajectory=4, validations=4, checkpoint_every_seconds=0.0
)


class Line(torch.nn.Module):
    """x + w v lag: one number to learn, and a matrix."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.matrix = torch.nn.Parameter(torch.eye(3))


def loss_of_line(module, turn):
    batch, lags = turn.windows, torch.nan_to_num(turn.windows.lags_fs)[..., None, None]
    x = batch.positions + 0.01 * turn.noise.positions
    moved = (x[:, None] + module.weight * batch.velocities[:, None] * lags) @ module.matrix
    losses = ((moved - batch.targets) ** 2).mean((1, 2, 3))
    return losses.sum(), torch.tensor(float(len(losses)))


def trainer(data, out, loss=loss_of_line, settings=SETTINGS, validate=None, budget=BUDGET):
    torch.manual_seed(0)
    windows = TrainingWindows(
        data.training.trajectories, LagSampling(toys.TASK.lags_fs), seed=0,
        windows_per_trajectory=settings.windows_per_trajectory,
    )  # fmt: skip
    return Trainer(
        Line(), loss, windows, validate, settings,
        budget=budget, seed=0, out=out, device=torch.device("cpu"),
    )  # fmt: skip


class SlowWindows(TrainingWindows):
    """A batch takes 50 ms of CPU time."""

    def __getitems__(self, numbers):
        end = time.process_time() + 0.05
        while time.process_time() < end:
            pass
        return super().__getitems__(numbers)


@pytest.mark.parametrize("workers", [0, 1])
def test_time_of_cutting_windows_counts_whoever_does_it(data, tmp_path, workers):
    settings = SETTINGS.model_copy(update={"workers": workers})
    slow = trainer(data, tmp_path, settings=settings)
    slow.windows.__class__ = SlowWindows
    report = slow.run()[1]
    assert report.cpu_seconds >= 0.05 * report.n_steps > 0


class Killed(Exception):
    pass


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("step_of_death", [1, 4, 6])
def test_a_killed_run_goes_on_to_the_same_losses_and_weights(
    data, tmp_path, step_of_death, optimizer
):
    settings = SETTINGS.model_copy(update={"optimizer": optimizer})
    validate = lambda module: float(module.weight.detach().abs().sum())  # noqa: E731
    whole = trainer(data, tmp_path / "whole", settings=settings, validate=validate)
    best, report = whole.run()

    calls = 0

    def dies(module, turn):
        nonlocal calls
        calls += 1
        if calls > step_of_death:
            raise Killed
        return loss_of_line(module, turn)

    with pytest.raises(Killed):
        trainer(data, tmp_path / "cut", dies, settings, validate).run()
    again = trainer(data, tmp_path / "cut", settings=settings, validate=validate)
    torch.rand(7)  # Whatever the process drew before must not matter.
    best_again, report_again = again.run()
    assert again.step == whole.step == 8
    assert report_again.history == report.history
    assert len(report.history) == 4
    for key, value in best.items():
        torch.testing.assert_close(best_again[key], value, atol=0, rtol=0)


def test_training_lowers_the_loss_and_the_schedule_ends_low(data, tmp_path):
    def easy(module, turn):
        loss = (module.matrix - 2 * torch.eye(3)).square().mean() + 0 * module.weight.sum()
        return loss, torch.ones(())

    settings = SETTINGS.model_copy(update={"learning_rate": 0.05})
    run = trainer(data, tmp_path, easy, settings=settings, budget=Budget(epochs=20))
    _, report = run.run()
    losses = [entry["training_loss"] for entry in report.history]
    assert losses[-1] < 0.1 * losses[0]
    assert (report.n_steps, report.n_epochs) == (80, 20)


def test_the_best_weights_on_validation_are_kept_and_patience_stops(data, tmp_path):
    values = iter([3.0, 1.0, 2.0, 2.5, 0.1])
    kept = []

    def validate(module):
        value = next(values)
        if value == 1.0:
            kept.append(module.weight.detach().clone())
        return value

    settings = SETTINGS.model_copy(update={"patience": 2, "validations": 8})
    run = trainer(data, tmp_path, settings=settings, validate=validate)
    best, report = run.run()
    assert report.stopped_early and report.best_validation == 1.0
    assert len(report.history) == 4
    torch.testing.assert_close(best["weight"], kept[0])
    # Started again, it knows that it has stopped.
    again, second = trainer(data, tmp_path, settings=settings, validate=validate).run()
    assert second.stopped_early and second.n_steps == report.n_steps
    torch.testing.assert_close(again["weight"], kept[0])


def test_weights_that_err_beyond_measure_are_not_kept(data, tmp_path):
    errors = iter([math.nan, math.inf, 2.0, math.nan, 3.0])
    _, report = trainer(data, tmp_path, validate=lambda module: next(errors, 4.0)).run()
    assert report.best_validation == 2.0
    assert [row.get("validation_error") for row in report.history] == [None, None, 2.0, None]


def test_a_budget_in_minutes_ends(data, tmp_path):
    _, report = trainer(data, tmp_path, budget=Budget(cpu_minutes=0.002)).run()
    assert report.cpu_seconds >= 0.12 and report.n_steps > 0


def test_a_diverging_run_says_so(data, tmp_path):
    def nothing(module, turn):
        return module.weight.sum() * math.nan, torch.ones(())

    with pytest.raises(RunFailed, match=r"diverged at step 0; try a lower"):
        trainer(data, tmp_path, nothing).run()


def test_a_damaged_checkpoint_is_named(data, tmp_path):
    trainer(data, tmp_path).run()
    path = tmp_path / CHECKPOINT
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CorruptFile, match=r"checkpoint\.pt: damaged; remove it"):
        trainer(data, tmp_path).run()


def test_a_checkpoint_of_other_settings_is_refused_by_name(data, tmp_path):
    trainer(data, tmp_path).run()
    path = tmp_path / CHECKPOINT
    before = path.read_bytes()

    def refused(reason, **changed):
        with pytest.raises(UserError, match=reason) as caught:
            trainer(data, tmp_path, **changed).run()
        assert "checkpoint.pt" in str(caught.value) and "\n" not in str(caught.value)

    other = SETTINGS.model_copy(update={"learning_rate": 0.5})
    refused(r"training\.learning_rate: 0\.003 there, 0\.5 here", settings=other)
    refused(r"budget\.epochs: 2 there, 3 here", budget=Budget(epochs=3))
    shorter = toys.toy_data([toys.toy_trajectory(name, n_frames=111) for name in toys.NAMES])
    with pytest.raises(UserError, match=r"windows\.frames"):
        trainer(shorter, tmp_path).run()
    assert path.read_bytes() == before
    # How often is saved does not matter to what is learnt.
    trainer(data, tmp_path, settings=SETTINGS.model_copy(update={"threads": 2})).run()


def test_a_checkpoint_of_another_version_is_refused(data, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "FORMAT", 1)
    trainer(data, tmp_path).run()
    monkeypatch.undo()
    with pytest.raises(UserError, match="another version"):
        trainer(data, tmp_path).run()


def trained_atom(data, out, epochs=2, **training):
    settings = toys.TINY_ATOM["training"] | training
    model = make_model("atom", model=toys.TINY_ATOM["model"], training=settings)
    report = model.fit(data.training, budget=Budget(epochs=epochs), seed=0, out=out)
    return model, [entry["training_loss"] for entry in report.history]


def distance(model, other):
    """Largest difference between the weights of two models."""
    pairs = zip(model.module.parameters(), other.module.parameters(), strict=True)
    return max(float((p - q).detach().abs().max()) for p, q in pairs)


def test_accumulated_gradients_are_those_of_the_larger_batch(data, tmp_path):
    # 20 windows: of 12 and then 8, in turns of 12, of 5 and of 1.
    common = {"windows_per_trajectory": 5, "n_lags": (1, 5), "fixed_lag_fraction": 0.5}
    whole, losses = trained_atom(data, tmp_path / "whole", batch_size=12, **common)
    for batch_size, accumulate in ((4, 3), (1, 12)):
        given = common | {"batch_size": batch_size, "accumulate": accumulate}
        parts, same = trained_atom(data, tmp_path / str(accumulate), **given)
        assert same == pytest.approx(losses, rel=1e-5)
        assert distance(parts, whole) < 1e-5
    smaller, others = trained_atom(data, tmp_path / "smaller", batch_size=4, **common)
    assert distance(smaller, whole) > 1e-3 and others != pytest.approx(losses, rel=1e-3)


def test_bf16_learns_the_same_to_its_precision_and_keeps_float32_weights(data, tmp_path):
    plain, losses = trained_atom(data, tmp_path / "float32")
    half, rounded = trained_atom(data, tmp_path / "bf16", precision="bf16")
    assert rounded == pytest.approx(losses, rel=0.02) and rounded != losses
    assert {p.dtype for p in half.module.parameters()} == {torch.float32}
    assert 0 < distance(half, plain) < 0.1


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch compiles by g++, which is not here")
def test_a_compiled_training_is_the_eager_one(data, tmp_path):
    plain, losses = trained_atom(data, tmp_path / "eager")
    compiled, same = trained_atom(data, tmp_path / "compiled", compile=True)
    assert same == pytest.approx(losses, rel=1e-4)
    assert distance(compiled, plain) < 1e-4
    compiled.save(tmp_path / "model")
    make_model("atom").load(tmp_path / "model")


def test_compiling_without_a_compiler_is_a_mistake(data, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(UserError, match=r"needs a C\+\+ compiler"):
        trained_atom(data, tmp_path, compile=True)


def test_more_processes_than_there_are_is_a_mistake(data, tmp_path):
    with pytest.raises(UserError, match=r"processes is 2, but 1 take part; .*--nproc-per-node 2"):
        trained_atom(data, tmp_path, processes=2)


def test_devices_by_name():
    assert pick_device("cpu").type == "cpu"
    with pytest.raises(UserError, match="unknown device"):
        pick_device("mps")
    if not torch.cuda.is_available():
        assert pick_device("auto").type == "cpu"
        with pytest.raises(UserError, match="no CUDA device"):
            pick_device("cuda")


def test_the_same_seed_trains_the_same_atom_and_another_does_not(data, tmp_path):
    states = data.parts["test_id"].windows.states
    lags = torch.tensor(toys.TASK.lags_fs).expand(len(states), -1)
    found = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        model = make_model("atom-start", **toys.TINY_ATOM)
        model.fit(data.training, budget=Budget(epochs=1), seed=seed, out=tmp_path / name)
        found.append(model.predict(states, lags)[0])
    torch.testing.assert_close(found[0], found[1], atol=0, rtol=0)
    assert float((found[0] - found[2]).abs().max()) > 0


def test_a_preset_s_training_is_the_default_and_what_is_asked_goes_first():
    plain = make_model("atom").settings()["training"]
    assert plain["lags_per_window"] == TRAINING["mini"]["lags_per_window"]
    asked = make_model("atom", training={"lags_per_window": None, "batch_size": 4})
    assert asked.settings()["training"]["lags_per_window"] is None
    assert asked.settings()["training"]["learning_rate"] == TRAINING["mini"]["learning_rate"]
    paper = make_model("atom", preset="paper").settings()["training"]
    assert paper["lags_per_window"] is None and paper["learning_rate"] == 3e-3
    again = make_model("atom", **asked.settings()).settings()
    assert again == asked.settings()
