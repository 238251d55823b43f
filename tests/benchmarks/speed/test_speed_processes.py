"""Measurements in processes of their own: memory and throughput."""

import json
import os

import numpy as np
import pytest

# What a child imports of this module costs it time: the tests import the rest themselves.
from benchmarks.speed.scaffold import children
from tg80.errors import RunFailed


class Echo:
    """Answers its number and the question; dies or fails on request."""

    def __init__(self, index):
        self.index = index

    def __call__(self, question):
        if question == "die":
            os._exit(7)
        if question == "fail":
            raise ValueError("as asked")
        return self.index, question, os.getpid()


def test_children_answer_and_their_ends_are_told():
    with children(2, Echo) as started:
        for child in started:
            child.ask("hello")
        answers = [child.answer() for child in started]
        assert [answer[:2] for answer in answers] == [(i, "hello") for i in range(2)]
        assert len({answer[2] for answer in answers} | {os.getpid()}) == 3
        started[0].ask("die")
        with pytest.raises(RunFailed, match="exit code 7"):
            started[0].answer()
        started[1].ask("fail")
        with pytest.raises(RunFailed, match="ValueError: as asked"):
            started[1].answer()


def test_peak_memory_of_a_worker(capsys):
    from benchmarks.cli import main

    argv = ["speed", "memory", "--molecules", "water", "--steps", "1", "--memory-gb", "2", "--json"]
    assert main(argv) == 0
    (row,) = json.loads(capsys.readouterr().out)["results"]["water"]["budgets"]
    assert 0 < row["imported_bytes"] < row["peak_bytes"] < 1e9
    assert row["force_difference"] == 0.0


@pytest.mark.slow
def test_throughput_of_two_workers():
    from benchmarks.speed.settings import ThroughputSettings
    from benchmarks.speed.starts import find_molecules
    from benchmarks.speed.throughput import two_against_one

    settings = ThroughputSettings(steps=1, repeats=1, warm_up=0)
    (water,) = find_molecules("water")
    found = two_against_one(water, settings)
    for figures in (found.plain, found.dask):
        assert figures.ratio.n == 1
        rates = [figures.steps_per_s_one, figures.steps_per_s_two]
        assert np.isfinite(rates).all() and min(rates) > 0
        assert figures.ratio.median == pytest.approx(rates[1] / rates[0])
