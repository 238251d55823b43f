"""Kill -9 at random moments, resumed each time: the shards hold the very same bits."""

import pytest

from tests.kill_run import kill_and_compare, kill_cluster_and_compare


def test_kills_leave_the_same_bits(tmp_path):
    hits, differing = kill_and_compare(tmp_path, "gfn2-xtb", n_kills=4, seed=7)
    assert differing == []
    assert hits == 4


@pytest.mark.slow
def test_many_kills_leave_the_same_bits(tmp_path):
    hits, differing = kill_and_compare(tmp_path, "gfn2-xtb", n_kills=30, seed=7)
    assert differing == []
    assert hits == 30


@pytest.mark.slow
@pytest.mark.parametrize("level", ["gfn2-xtb", "pbe-def2svp"])
def test_kills_of_worker_scheduler_and_run_leave_the_same_bits(tmp_path, level):
    targets = ["worker", "scheduler", "client", "worker", "scheduler", "worker", "client"]
    hits, differing = kill_cluster_and_compare(tmp_path, level, targets, seed=5)
    assert differing == []
    assert hits >= len(targets) - 1


@pytest.mark.slow
def test_kills_of_a_dft_run_leave_the_same_bits(tmp_path):
    hits, differing = kill_and_compare(tmp_path, "pbe-def2svp", n_kills=6, seed=8)
    assert differing == []
    assert hits == 6
