"""Kill -9 at random moments, resumed each time: the shards hold the very same bits."""

import pytest

from tests.stress.kill_run import TARGETS, kill_and_compare, kill_cluster_and_compare, make_whole


@pytest.fixture(scope="module")
def xtb(tmp_path_factory):
    """Folder with a run at GFN2-xTB that was left alone, and its wall time."""
    folder = tmp_path_factory.mktemp("kills")
    return folder, make_whole(folder, "gfn2-xtb")


def test_kills_of_the_run_leave_the_same_bits(xtb):
    """One of the main process alone, one of the whole group, both in the midst of the work."""
    folder, whole_s = xtb
    hits, differing = kill_and_compare(folder, "gfn2-xtb", 2, 29, whole_s)
    assert differing == []
    assert hits == 2


@pytest.mark.slow
def test_a_lost_worker_and_a_lost_scheduler_leave_the_same_bits(xtb):
    """The worker's death goes unnoticed by the run; the scheduler's ends it with one line."""
    folder, whole_s = xtb
    targets = ["worker", "scheduler"]
    hits, differing = kill_cluster_and_compare(folder, "gfn2-xtb", targets, 3, whole_s)
    assert differing == []
    assert hits == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("level", "n_kills", "seed", "targets"),
    [("gfn2-xtb", 30, 7, []), ("pbe-def2svp", 6, 8, [*TARGETS, "worker"])],
)
def test_many_kills_leave_the_same_bits(tmp_path, level, n_kills, seed, targets):
    whole_s = make_whole(tmp_path, level)
    hits, differing = kill_and_compare(tmp_path, level, n_kills, seed, whole_s)
    assert differing == []
    # On a busy machine a kill may come when the run has just ended.
    assert hits >= 0.8 * n_kills
    if targets:
        hits, differing = kill_cluster_and_compare(tmp_path, level, targets, 5, whole_s)
        assert differing == []
        assert hits >= 3
