"""Checks of predictions: filled in, finite, and in the unit and frame that were asked for.

At the shortest lag molecules have hardly moved, so that another unit or frame shows. A bad model is
not refused: each check looks for one mistake, and many entries must show it.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from benchmarks.submissions.layout import AGAIN, STATE_DATASETS, Template
from tg80.errors import UserError

# Another unit: three quarters of the molecules are larger, or smaller, than their start by more
# than the first, by one factor within the second, and have its shape by the cosine. Models that
# learnt for one epoch are within 5 % of their start, units of length by 1.89 or more.
_SIZE, _ONE_FACTOR, _SAME_SHAPE = 1.25, 0.3, 0.8
_FAR = 1e6  # A
_SHIFTED = 1.0  # A
_MOVED, _ALIKE = 0.3, 0.15  # of the molecule's size
# The same for two atoms: whatever these do, a rotation undoes most of it.
_MOVED_PAIR, _ALIKE_PAIR = 0.7, 0.05
_STATE_TOLERANCE = 1e-4  # A and A/fs: rounding of other machines is far below


def check_finite(template: Template, predictions: np.ndarray, failed: np.ndarray) -> None:
    """Refuse entries that are not filled in, and numbers that cannot be positions.

    Args:
        template: what was asked for.
        predictions: (E, P, N, 3) A.
        failed: (E,) bool.

    Raises:
        UserError: there are such.
    """
    if failed.all():
        raise UserError("every entry is marked as failed; there is nothing to score")
    scored = template.score_mask[:, None, :, None] & ~failed[:, None, None, None]
    missing = np.isnan(predictions) & scored
    empty = (missing == scored).all((1, 2, 3)) & ~failed
    if empty.any():
        raise UserError(
            f"{empty.sum()} of {len(template)} entries are not filled in, the first is "
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
                f"{bad.sum()} coordinates are {what}, the first in entry "
                f"{template.entry[entry]} at {template.lags_fs[lag]:g} fs, atom {atom}; {asked}"
            )


def check_plausible(template: Template, predictions: np.ndarray, failed: np.ndarray) -> None:
    """Refuse positions in another unit or frame.

    Args:
        template: what was asked for.
        predictions: (E, P, N, 3) A.
        failed: (E,) bool.

    Raises:
        UserError: they look like that; the message says what they look like.
    """
    kept = ~failed & (template.score_mask.sum(1) > 1)
    found = next(_mistakes(template, predictions, kept), None) if kept.any() else None
    if found:
        raise UserError(f"{found}; if this is intended, give --as-is")


def _mistakes(template: Template, predictions: np.ndarray, kept: np.ndarray) -> Iterator[str]:
    mask, lag_fs = template.score_mask[kept], f"{template.lags_fs[0]:g} fs"
    x, centre = _centred(template.positions[kept], mask)
    p, predicted_centre = _centred(predictions[kept, 0], mask)
    size, change, cosine = _norm(x), _norm(p - x), _cosine(x, p)
    yield from _unit(template.part[kept], (x * p).sum((1, 2)) / size**2, cosine, lag_fs)
    ratio = np.median(_norm(p) / size)
    if 1e-3 < ratio < 0.3 and np.abs(np.median(cosine)) < 0.5:
        yield (
            f"predictions at {lag_fs} do not resemble the molecules at the start and are "
            f"{ratio:.2g} times as large: displacements? Give positions, start added"
        )
    distance = np.median(np.linalg.norm(predicted_centre - centre, axis=-1))
    if distance > _SHIFTED and np.median(change / size) < _MOVED:
        yield (
            f"molecules at {lag_fs} lie {distance:.2g} A from their start as a whole: moved "
            "to another origin? Give positions in the frame of the template"
        )
    pairs = np.median(mask.sum(1)) <= 2
    moved, alike = (_MOVED_PAIR, _ALIKE_PAIR) if pairs else (_MOVED, _ALIKE)
    if np.median(change / size) < moved:
        return
    # Not at the top: the process that reads files of strangers has no memory for torch.
    import torch

    from atom.alignment import kabsch_rotation

    for sign, word in ((1.0, "rotated"), (-1.0, "mirrored")):
        mobile, target = torch.from_numpy(sign * p), torch.from_numpy(x)
        aligned = mobile @ kabsch_rotation(mobile, target).transpose(-1, -2)
        if np.median(_norm(aligned.numpy() - x) / size) < alike:
            yield (
                f"molecules at {lag_fs} have the shape of their start but are {word}: axes "
                "or frame changed? Give positions in the frame of the template"
            )


def _unit(part: np.ndarray, factor: np.ndarray, cosine: np.ndarray, lag_fs: str) -> Iterator[str]:
    """One factor times the shape of the start: a unit, or a network's scale that was forgotten."""
    for name in sorted(set(part.tolist())):
        low, middle, high = np.quantile(factor[part == name], [0.25, 0.5, 0.75])
        other_size = low > _SIZE or high < 1 / _SIZE
        one_factor = high - low < _ONE_FACTOR * middle
        if other_size and one_factor and np.median(cosine[part == name]) > _SAME_SHAPE:
            yield (
                f"molecules of {name} at {lag_fs} have the shape of their start times "
                f"{middle:.3g}: positions in another unit? Give angstrom"
            )


def _centred(positions: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions (E, N, 3) about their centroid, 0 outside the mask, and the centroid (E, 3)."""
    known = np.where(mask[..., None], positions, 0.0)
    centre = known.sum(1) / mask.sum(1, keepdims=True)
    return np.where(mask[..., None], known - centre[:, None], 0.0), centre


def _norm(values: np.ndarray) -> np.ndarray:
    return np.sqrt((values**2).sum((1, 2)))


def _cosine(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    length = _norm(one) * _norm(other)
    return (one * other).sum((1, 2)) / np.where(length > 0, length, 1.0)


def check_issued(sent: Template, issued: Template) -> None:
    """Refuse what was not made from the template that the data give.

    Args:
        sent: the template that was filled in.
        issued: the one made from the data here.

    Raises:
        UserError: another version of the task, split or data, other entries or altered starts; the
            message names the first difference.
    """
    for key, advice in (
        ("task_sha256", f"the task has changed since; {AGAIN}"),
        ("split_sha256", "another split was used; name it by --split"),
        ("manifest_sha256", "it was made from other data; name their folder by --data"),
    ):
        if getattr(sent.header, key) != getattr(issued.header, key):
            raise UserError(f"{key} is not that of {issued.header.task} here: {advice}")
    strange = sorted(set(sent.entry.tolist()) ^ set(issued.entry.tolist()))
    if strange or sent.shape != issued.shape:
        which = f", such as {strange[0]}" if strange else ""
        raise UserError(f"entries are not those of this fold and parts{which}; {AGAIN}")
    for name in STATE_DATASETS:
        theirs, ours = getattr(sent, name), getattr(issued, name)
        if ours.dtype.kind == "f":
            unlike = ~np.isclose(theirs, ours, rtol=0, atol=_STATE_TOLERANCE)
        else:
            unlike = theirs != ours
        if unlike.any():
            first = tuple(np.argwhere(unlike)[0].tolist())
            raise UserError(
                f"{name!r} is not what was handed out, in the template's order: at "
                f"{list(first)} it is {theirs[first]}, not {ours[first]}; {AGAIN}"
            )
