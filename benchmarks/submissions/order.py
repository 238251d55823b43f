"""Predictions whose entries, atoms or lags stand in another order than those of the template.

At the shortest lag every entry must lie near its own start. One that does not, but lies near the
start of another entry, or near its own once its atoms are exchanged, is in the wrong place: no poor
model does that, since every entry was turned by a rotation of its own. Lags are told apart by how
far atoms can have come: the mean squared displacement of a motion that is the same at all times is
at most that of free flight, whatever its vibrations.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.optimize import linear_sum_assignment

from benchmarks.submissions.layout import Template

_NOWHERE = 1e6  # A: atoms that are not scored may be as far, or no numbers
_FAR = 0.5  # A from the own start, root mean square over scored atoms
_NEARER = 0.3  # of that distance, or of the size of the molecule
_MANY = 0.2  # of the entries
_FEWEST = 3  # that must show it, where there are as many
# Of the way of free flight: more than the first is too far, if this share of entries then come less
# far to some later lag.
_TOO_FAR = ((1.5, 0.75), (1.15, 0.95))
_REACHED = 1.2  # of that way: no more, at the later lag
_FEWEST_MOVED = 10  # entries: some lag of a few is smaller by chance
_INVERTED = 1.5  # ratio of the displacements to the two lags


def rows_in_another_order(
    template: Template, predictions: np.ndarray, kept: np.ndarray
) -> Iterator[str]:
    """What to say if many predictions lie on the start of another entry.

    Args:
        predictions: (E, P, N, 3) A. kept: (E,) bool, the entries that are looked at.
    """
    rows = np.flatnonzero(kept)
    mask = template.score_mask[rows]
    start = np.where(mask[..., None], template.positions[rows], 0.0)
    distance = _distances(predictions[rows, 0], start, mask)
    radius = _root_mean(((start - _centroid(start, mask)) ** 2).sum(-1), mask)
    own = np.diag(distance).copy()
    np.fill_diagonal(distance, np.inf)
    # A start without extent is near anything that is at the origin.
    distance[:, radius < _FAR] = np.inf
    limit = _NEARER * np.minimum(own[:, None], radius[None])
    nearest = np.where(distance < limit, distance, np.inf).argmin(1)
    moved = (own > _FAR) & (distance < limit).any(1)
    if _are_many(moved):
        one = int(moved.argmax())
        yield (
            f"{moved.sum()} of {len(rows)} predictions at {template.lags_fs[0]:g} fs lie on the "
            f"start of another entry, as that of {template.entry[rows[one]]} on "
            f"{template.entry[rows[nearest[one]]]}: rows in another order? Keep that of the "
            "template"
        )


def _distances(predicted: np.ndarray, start: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """(E, E) A: of prediction i from start j, over the atoms that are scored in j.

    A prediction that sits in another row brings its own number of atoms with it.
    """
    flat = mask.astype(float)
    missing = (~(np.abs(predicted) < _NOWHERE)).sum(-1)
    values = np.where(missing[..., None] > 0, 0.0, predicted)
    square = (values**2).sum(-1) @ flat.T - 2 * np.einsum("ina,jna->ij", values, start)
    square += (start**2).sum((1, 2))[None]
    square = np.where(missing @ flat.T > 0, np.inf, np.maximum(square, 0.0))
    return np.sqrt(square / flat.sum(1)[None])


def atoms_in_another_order(
    template: Template, predictions: np.ndarray, kept: np.ndarray
) -> Iterator[str]:
    """What to say if many predictions come much nearer to their starts by exchanging atoms."""
    exchanged = np.zeros(len(template), dtype=bool)
    for row in np.flatnonzero(kept):
        scored, start = template.score_mask[row], template.positions[row]
        first = predictions[row, 0]
        own = np.sqrt(((first[scored] - start[scored]) ** 2).sum(-1).mean())
        # Unscored atoms may be anything; where they are numbers, they may have changed places with
        # scored ones.
        present = template.atomic_numbers[row] > 0
        candidates = [scored] + ([present] if (np.abs(first[present]) < _NOWHERE).all() else [])
        if own > _FAR:
            matched = min(_matched(start, first, among, scored) for among in candidates)
            exchanged[row] = matched < _NEARER * own
    if _are_many(exchanged[kept]):
        yield (
            f"{exchanged.sum()} of {kept.sum()} predictions at {template.lags_fs[0]:g} fs lie on "
            "the start of other atoms of the same entry, as that of "
            f"{template.entry[exchanged.argmax()]}: atoms in another order? Keep that of "
            "atomic_numbers"
        )


def _matched(start: np.ndarray, first: np.ndarray, among: np.ndarray, scored: np.ndarray) -> float:
    """Distance of the scored atoms in A once the atoms `among` are exchanged for the nearest."""
    square = ((start[among][:, None] - first[among][None]) ** 2).sum(-1)
    rows, columns = linear_sum_assignment(square)
    return float(np.sqrt(square[rows, columns][scored[among]].mean()))


def lags_in_another_order(
    template: Template, predictions: np.ndarray, kept: np.ndarray
) -> Iterator[str]:
    """What to say if a short lag holds what only longer ones can, and one of these what it lacks.

    Molecules that hardly leave their places do not tell; those that do must be many.
    """
    mask, lags_fs = template.score_mask[kept], template.lags_fs
    start = np.where(mask[..., None], template.positions[kept], 0.0)[:, None]
    predicted = np.where(mask[:, None, :, None], predictions[kept], 0.0)
    moved = _root_mean(((predicted - start) ** 2).sum(-1), mask[:, None])
    velocities = np.where(mask[..., None], template.velocities[kept], 0.0)
    speed = _root_mean((velocities**2).sum(-1), mask)
    speed = np.maximum(speed, np.median(speed))
    for short in range(len(lags_fs) - 1):
        flown = speed * lags_fs[short]
        for farther, most in _TOO_FAR:
            too_far = moved[:, short] > farther * flown
            for group in (np.ones_like(too_far), too_far):
                many = _are_many(too_far & group) and group.sum() >= _FEWEST_MOVED
                if not many or too_far[group].mean() <= 0.5:
                    continue
                long = _swapped(moved[group] / flown[group, None], short, most)
                if long is not None:
                    one = int((group & (moved[:, short] > _INVERTED * moved[:, long])).argmax())
                    yield (
                        f"molecules move farther to {lags_fs[short]:g} fs than to "
                        f"{lags_fs[long]:g} fs, {template.entry[kept][one]} "
                        f"{moved[one, short]:.2g} A and {moved[one, long]:.2g} A: lags in another "
                        "order? Keep that of lags_fs"
                    )
                    return


def _swapped(ways: np.ndarray, short: int, most: float) -> int | None:
    """The lag behind `short` that holds what atoms can have come to there, while it does not.

    Args:
        ways: (entries, P) displacements over those of free flight to the lag `short`.
        most: share of the entries that must move farther to `short`.
    """
    later = ways[:, short + 1 :]
    inverted = (ways[:, [short]] > _INVERTED * later).mean(0) > most
    middle = np.where(inverted, np.median(later, axis=0), np.inf)
    return short + 1 + int(middle.argmin()) if middle.min() < _REACHED else None


def _are_many(found: np.ndarray) -> bool:
    return bool(found.sum() >= min(_FEWEST, len(found)) and found.mean() > _MANY)


def _centroid(positions: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return positions.sum(1, keepdims=True) / mask.sum(1)[:, None, None]


def _root_mean(square: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Root of the mean over the atoms under the mask, the last axis."""
    return np.sqrt(np.where(mask, square, 0.0).sum(-1) / mask.sum(-1))
