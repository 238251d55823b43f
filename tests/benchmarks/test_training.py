import math

import pytest
import torch

from benchmarks.models import Budget, make_model
from benchmarks.optimisers import make_optimizers, schedule
from benchmarks.training import CHECKPOINT, Trainer, TrainingSettings, pick_device
from tests.benchmarks import toys
from tg80.errors import CorruptFile, RunFailed, UserError
from tg80.lags import LagSampling
from tg80.windows import TrainingWindows

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


def test_schedule():
    settings = TrainingSettings(warmup_fraction=0.1, final_rate_fraction=0.02)
    values = [schedule(i / 100, settings) for i in range(101)]
    assert values[0] == pytest.approx(0.01)
    assert max(values) == values[10] == 1.0
    assert values[-1] == pytest.approx(0.02)
    assert values[:11] == sorted(values[:11])
    assert values[10:] == sorted(values[10:], reverse=True)


def test_muon_turns_matrices_and_adamw_the_rest():
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4))
    muon, adamw = make_optimizers(module, TrainingSettings(optimizer="muon"))
    assert [p.ndim for g in muon.param_groups for p in g["params"]] == [2]
    assert {p.ndim for g in adamw.param_groups for p in g["params"]} == {1}
    (only,) = make_optimizers(module, TrainingSettings())
    assert sum(len(g["params"]) for g in only.param_groups) == 4


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
