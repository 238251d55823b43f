"""Means over runs: seeds within folds first, and tables of the same folds only."""

import dataclasses

import pytest

from benchmarks.leaderboard.lines import over_runs, panels, spread_over_seeds


@dataclasses.dataclass(frozen=True)
class Run:
    """What `lines` reads of a record."""

    model: str
    fold: int
    seed: int | None = 0
    task: str = "toy-v1"
    track: str = "canonical"
    settings: dict = dataclasses.field(default_factory=dict)
    budget: dict = dataclasses.field(default_factory=dict)
    split_sha256: str = ""
    manifest_sha256: str = ""
    task_spec: dict = dataclasses.field(default_factory=dict)


def test_folds_weigh_alike_whatever_their_number_of_seeds():
    # A hard fold with one seed, an easy one with three: the same model three times.
    runs = [Run("still", 1), *(Run("still", 2, seed) for seed in (0, 1, 2))]
    errors = [3.0, 1.0, 1.0, 1.0]
    assert over_runs(runs, errors) == 2.0
    assert over_runs(runs, [None, 1.0, 2.0, 3.0]) == 2.0
    assert over_runs(runs, [None] * 4) is None
    # One seed has all folds: nothing is known of the spread, and folds are none.
    assert spread_over_seeds(runs, errors) is None
    runs.append(Run("still", 1, 1))
    assert spread_over_seeds(runs, [*errors, 3.0]) == 0.0
    assert spread_over_seeds(runs, [3.0, 1.0, 2.0, 9.0, 4.0]) == pytest.approx(2 * 0.5**0.5)


def test_only_runs_on_the_same_folds_share_a_table():
    runs = [Run("still", fold, None) for fold in (1, 2, 3)]
    runs += [Run("atom", fold, seed) for fold in (1, 2) for seed in (0, 1)]
    runs += [Run("submitted/easy", 2)]
    found = panels(runs, lambda run: run)
    shown = [
        (sorted({r.fold for r in panel}), sorted({r.model for r in panel}), len(panel))
        for panel in found
    ]
    assert shown == [
        ([1, 2, 3], ["still"], 3),
        ([1, 2], ["atom", "still"], 6),
        ([2], ["atom", "still", "submitted/easy"], 4),
    ]


def test_tasks_and_tracks_have_tables_of_their_own():
    runs = [Run("still", 1), Run("still", 2, track="heavy-input"), Run("still", 1, task="b")]
    assert panels(runs, lambda run: run) == [[run] for run in runs]
    # Other settings are another line: it has its own folds.
    runs = [Run("atom", 1), Run("atom", 2), Run("atom", 2, settings={"width": 8})]
    assert [len(panel) for panel in panels(runs, lambda run: run)] == [2, 2]
