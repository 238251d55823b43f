"""Examples of predicted windows, laid out to be drawn: turned to their widest side, bonds found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from ase.data import chemical_symbols, covalent_radii

from benchmarks.runs.examples import Example, read_examples
from benchmarks.runs.records import settings_key

if TYPE_CHECKING:
    from benchmarks.leaderboard.web.content import PageRecord

BOND_FACTOR = 1.25
UNITS_PER_ANGSTROM = 100
# Far outside the picture already; a rollout that blew up would fill the page with digits.
_LIMIT = 100 * UNITS_PER_ANGSTROM


def movies(members: Sequence[PageRecord], fold: int | None) -> dict[str, Any]:
    """The examples of one fold, the predictions of all models for a window in one place.

    Of a model with several seeds or settings, each setting's lowest seed is shown.

    Returns:
        fold, and the cases in the order in which they were chosen: positions in 1/100 A.
    """
    cases: dict[tuple[str, str], dict[str, Any]] = {}
    shown: set[tuple[str, str]] = set()
    for one in sorted(members, key=lambda m: (m.record.model, m.record.seed or 0)):
        line = (one.record.model, settings_key(one.record))
        if line in shown:
            continue
        examples = read_examples(one.folder)
        if examples:
            shown.add(line)
        for example in examples:
            case = cases.setdefault((example.part, example.start_id), _case(example))
            if _same_window(case, example):
                case["predictions"].append(
                    {
                        "model": line[0], "settings": line[1], "seed": one.record.seed,
                        "failed": example.failed,
                        "positions": _whole(example.predicted @ _turn(example)),
                    }
                )  # fmt: skip
    return {"fold": fold, "cases": list(cases.values())}


def _case(example: Example) -> dict[str, Any]:
    turn = _turn(example)
    return {
        "part": example.part,
        "molecule": example.molecule,
        "start_id": example.start_id,
        "symbols": [chemical_symbols[z] for z in example.atomic_numbers],
        "scored": [int(i) for i in np.flatnonzero(example.scored)],
        "bonds": _bonds(example),
        "lags_fs": [float(f"{lag:.6g}") for lag in example.lags_fs],
        "start": _whole(example.start @ turn),
        "truth": _whole(example.truth @ turn),
        "predictions": [],
    }


def _same_window(case: dict[str, Any], example: Example) -> bool:
    """Whether a run was asked for the same lags of the same start, and not of other data."""
    return (
        len(case["lags_fs"]) == len(example.lags_fs)
        and np.allclose(case["lags_fs"], example.lags_fs)
        and case["start"] == _whole(example.start @ _turn(example))
    )


def _turn(example: Example) -> np.ndarray:
    """A rotation (3, 3), applied from the right, that shows the widest side of the scored atoms."""
    positions = example.start[example.scored]
    if len(positions) < 2:
        positions = example.start
    _, _, axes = np.linalg.svd(positions - positions.mean(axis=0))
    axes[2] *= np.sign(np.linalg.det(axes))
    return axes.T


def _bonds(example: Example) -> list[list[int]]:
    """Pairs of atoms closer than their covalent radii allow for strangers, in the start."""
    radii = covalent_radii[example.atomic_numbers]
    distances = np.linalg.norm(example.start[:, None] - example.start[None], axis=-1)
    near = np.triu(distances < BOND_FACTOR * (radii[:, None] + radii[None]), k=1)
    return np.argwhere(near).tolist()


def _whole(positions: np.ndarray) -> Any:
    steps = np.clip(np.round(UNITS_PER_ANGSTROM * positions), -_LIMIT, _LIMIT)
    return steps.astype(int).tolist()
