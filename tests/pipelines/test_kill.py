"""Kill -9 at random moments, resumed each time: the shards hold the very same bits."""

import pytest

from tests.kill_run import kill_and_compare


def test_ten_kills_leave_the_same_bits(tmp_path):
    hits, differing = kill_and_compare(tmp_path, "gfn2-xtb", n_kills=10, seed=7)
    assert differing == []
    assert hits == 10


@pytest.mark.slow
def test_kills_of_a_dft_run_leave_the_same_bits(tmp_path):
    hits, differing = kill_and_compare(tmp_path, "pbe-def2svp", n_kills=6, seed=8)
    assert differing == []
    assert hits == 6
