"""The comparison of ensembles sees a difference where there is one."""

from tests.stress.ensembles import compare
from tg80.dataset import load


def test_a_run_is_like_itself_and_unlike_one_at_another_level():
    shards = load("mini-dft")["furan"], load("mini-xtb")["furan"]
    assert all(found.errors_apart == 0 for found in compare(shards[0], shards[0]))
    different = {found.what: found.errors_apart for found in compare(*shards)}
    assert different["bond 6-6 of order 1.5, A"] > 5
