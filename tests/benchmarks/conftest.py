import pytest
import torch

from tests.support import toys
from tests.support.factories import make_dataset


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def data():
    """Fold 2 of the toys; not to be changed."""
    return toys.toy_data()


@pytest.fixture(scope="session")
def shards(tmp_path_factory):
    """True-format shards, long enough for mini-xtb-v1: 5 ps every 10 fs; not to be changed."""
    folder = tmp_path_factory.mktemp("shards")
    make_dataset(folder, toys.SMALL, n_frames=501, store_every_fs=10.0, time_step_fs=1.0)
    return folder


@pytest.fixture(scope="session")
def mini():
    """Fold 2 of the mini set that ships along; not to be changed."""
    from benchmarks.tasks.data import load_benchmark
    from benchmarks.tasks.tasks import get_task

    return load_benchmark(get_task("mini-xtb-v1"), 2)


@pytest.fixture(scope="session")
def mini_runs(mini, tmp_path_factory):
    """Results folder of small models trained on `mini`: atom with two seeds, atom-start with one.

    All atoms are learnt from, for the predictions of hydrogens.
    """
    from benchmarks.models import Budget, make_model
    from benchmarks.runs.evaluation import fit_references
    from benchmarks.runs.runner import run_once

    out, references = tmp_path_factory.mktemp("mini-runs"), fit_references(mini)
    for model, seed in (("atom", 0), ("atom", 1), ("atom-start", 0)):
        run_once(
            make_model(model, **toys.SMALL_ATOM), mini,
            seed=seed, budget=Budget(epochs=3), out=out, references=references,
        )  # fmt: skip
    return out
