"""Predictions that are numbers, but not the numbers that were asked for.

What can be told from the file alone: at the shortest lag molecules have hardly moved, so that other
units and frames show, and orders (`order`). A bad model is not refused: each check wants the
likeness to one mistake, and many entries must show it.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from benchmarks.scoring.alignment import kabsch_rotation
from benchmarks.submissions.layout import Template
from benchmarks.submissions.order import (
    atoms_in_another_order,
    lags_in_another_order,
    rows_in_another_order,
)
from tg80.errors import UserError

# Another unit: three quarters of the molecules are larger, or smaller, than their start by more
# than the first, by one factor within the second, and have its shape by the cosine. Models that
# learnt for one epoch are within 5 % of their start, units of length by 1.89 or more.
_SIZE, _ONE_FACTOR, _SAME_SHAPE = 1.25, 0.3, 0.8
_FAR = 1e6  # A
_SHIFTED = 1.0  # A
_MOVED, _ALIKE = 0.3, 0.15  # of the molecule's size
# Likewise, of two atoms: whatever these do, a turn undoes most of it.
_MOVED_PAIR, _ALIKE_PAIR = 0.7, 0.05


def check_finite(where: str, template: Template, predictions: np.ndarray, failed: np.ndarray):
    """Refuse entries that are not filled in, and numbers that can be no positions.

    Args:
        where: the file, for messages. predictions: (E, P, N, 3) A. failed: (E,) bool.

    Raises:
        UserError: there are such.
    """
    if failed.all():
        raise UserError(f"{where}: every entry is marked as failed; there is nothing to score")
    scored = template.score_mask[:, None, :, None] & ~failed[:, None, None, None]
    missing = np.isnan(predictions) & scored
    empty = (missing == scored).all((1, 2, 3)) & ~failed
    if empty.any():
        raise UserError(
            f"{where}: {empty.sum()} of {len(template)} entries are not filled in, the first is "
            f"{template.entry[empty.argmax()]}; predict it, or mark it in 'failed'"
        )
    asked = "give positions of all scored atoms at all lags, or mark the entry in 'failed'"
    for bad, what in (
        (missing, "NaN"),
        (np.isinf(predictions) & scored, "infinite"),
        ((np.abs(np.nan_to_num(predictions)) > _FAR) & scored, f"beyond {_FAR:g} A"),
    ):
        if bad.any():
            entry, lag, atom, _ = np.argwhere(bad)[0]
            raise UserError(
                f"{where}: {bad.sum()} coordinates are {what}, the first in entry "
                f"{template.entry[entry]} at {template.lags_fs[lag]:g} fs, atom {atom}; {asked}"
            )


def check_plausible(where: str, template: Template, predictions: np.ndarray, failed: np.ndarray):
    """Refuse positions in another unit, frame or order.

    Raises:
        UserError: they look like that; the message says what they look like.
    """
    found = next(_mistakes(template, predictions, ~failed), None)
    if found:
        raise UserError(f"{where}: {found}; if it is meant so, say --as-is")


def _mistakes(template: Template, predictions: np.ndarray, kept: np.ndarray) -> Iterator[str]:
    mask = template.score_mask[kept]
    start = np.where(mask[..., None], template.positions[kept], 0.0)
    predicted = np.where(mask[..., None], predictions[kept, 0], 0.0)
    first, lag_fs = predicted, template.lags_fs[0]
    shift, x, p = (
        _centroid(first, mask) - _centroid(start, mask),
        *(np.where(mask[..., None], a - _centroid(a, mask)[:, None], 0.0) for a in (start, first)),
    )
    size = _norm(x)
    if not (size > 0).any():
        return
    several = size > 0
    yield from _unit(template.part[kept][several], x[several], p[several], lag_fs)
    yield from _displacements(x[several], p[several], lag_fs)
    yield from rows_in_another_order(template, predictions, kept)
    yield from _place(shift, x, p, size, lag_fs)
    pairs = np.median(mask[several].sum(1)) <= 2
    yield from _turn(
        x[several], p[several], size[several], lag_fs,
        limits=(_MOVED_PAIR, _ALIKE_PAIR) if pairs else (_MOVED, _ALIKE),
    )  # fmt: skip
    yield from atoms_in_another_order(template, predictions, kept)
    yield from lags_in_another_order(template, predictions, kept)


def _unit(part: np.ndarray, x: np.ndarray, p: np.ndarray, lag_fs: float) -> Iterator[str]:
    """One factor times the shape of the start, whatever it is: a unit, or a scale of a network."""
    factor, cosine = (x * p).sum((1, 2)) / (x**2).sum((1, 2)), _cosine(x, p)
    for name in sorted(set(part.tolist())):
        low, middle, high = np.quantile(factor[part == name], [0.25, 0.5, 0.75])
        other_size = low > _SIZE or high < 1 / _SIZE
        one_factor = high - low < _ONE_FACTOR * middle
        if other_size and one_factor and np.median(cosine[part == name]) > _SAME_SHAPE:
            yield (
                f"molecules of {name} at {lag_fs:g} fs have the shape of their start times "
                f"{middle:.3g}: positions in another unit? Give angstrom"
            )


def _displacements(x: np.ndarray, p: np.ndarray, lag_fs: float) -> Iterator[str]:
    middle = np.median(_norm(p) / _norm(x))
    if 1e-3 < middle < 0.3 and np.abs(np.median(_cosine(x, p))) < 0.5:
        yield (
            f"predictions at {lag_fs:g} fs have no likeness to the molecules at the start and are "
            f"{middle:.2g} times as large: displacements? Give positions, start added"
        )


def _place(
    shift: np.ndarray, x: np.ndarray, p: np.ndarray, size: np.ndarray, lag_fs: float
) -> Iterator[str]:
    distance = np.median(np.linalg.norm(shift, axis=-1))
    if distance > _SHIFTED and np.median(_norm(p - x) / np.where(size > 0, size, 1)) < _MOVED:
        yield (
            f"molecules at {lag_fs:g} fs lie {distance:.2g} A from their start as a whole: moved "
            "to another origin? Give positions in the frame of the template"
        )


def _turn(
    x: np.ndarray, p: np.ndarray, size: np.ndarray, lag_fs: float, limits: tuple[float, float]
) -> Iterator[str]:
    moved, alike = limits
    if np.median(_norm(p - x) / size) < moved:
        return
    for sign, word in ((1.0, "turned"), (-1.0, "mirrored")):
        mobile, target = torch.from_numpy(sign * p), torch.from_numpy(x)
        turned = mobile @ kabsch_rotation(mobile, target).transpose(-1, -2)
        if np.median(_norm(turned.numpy() - x) / size) < alike:
            yield (
                f"molecules at {lag_fs:g} fs have the shape of their start but are {word}: axes "
                "or frame changed? Give positions in the frame of the template"
            )


def _centroid(positions: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Centroid (E, 3) of the atoms under the mask; the others are zero."""
    return positions.sum(1) / mask.sum(1, keepdims=True)


def _norm(values: np.ndarray) -> np.ndarray:
    return np.sqrt((values**2).sum((1, 2)))


def _cosine(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    length = _norm(one) * _norm(other)
    return (one * other).sum((1, 2)) / np.where(length > 0, length, 1.0)
