"""The short form of the sweep: seventy commands; `--slow` runs two thousand."""

from itertools import islice

import pytest

from tests.stress import inputs
from tests.stress.commands import generate, tree
from tests.stress.sweep import sweep

# Their wrong values are refused before anything heavy begins.
QUICK = ("status", "validate", "info", "split", "export", "download", "leaderboard", "compare")


def test_every_command_has_a_line_that_is_in_order():
    """A command without one would only be tried with what its options need."""
    from tests.stress.commands import GOOD

    assert set(GOOD) == set(tree())


def test_the_short_sweep_finds_nothing():
    cases = generate(1, inputs.input_paths(), inputs.written_paths())
    quick = (
        case
        for case in cases
        if case.command in QUICK and case.stop is None and case.limit is None and not case.real
    )
    report = sweep(islice(quick, 70), 70, made=None)
    assert report.codes.total() == 70
    assert not report.found, "\n".join(report.lines())


@pytest.mark.slow
def test_the_long_sweep_finds_nothing(tmp_path):
    inputs.build_world(tmp_path / "made", whole=True)
    cases = generate(0, inputs.input_paths(), inputs.written_paths())
    report = sweep(cases, 2000, made=tmp_path / "made")
    assert not report.found, "\n".join(report.lines())
