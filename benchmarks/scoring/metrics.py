"""S2T, S2S, their aligned forms, and skill.

Squared errors are kept for every [start, lag] first; everything printed is an average of these.
Per molecule before the mean over molecules, so that a molecule counts once whatever the number of
its windows; the pooled figure stands beside it. Units: A^2.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Self

import numpy as np
import torch

from atom.alignment import kabsch_rotation

PRINTED_SCALE = 100.0


class Metric(StrEnum):
    """Keys of metrics in records, each with its label, the unit of the stored value, and a line."""

    label: str
    unit: str
    description: str

    def __new__(cls, key: str, label: str, unit: str, description: str) -> Self:
        """Make a key that knows its label, unit and description."""
        member = str.__new__(cls, key)
        member._value_ = key
        member.label, member.unit, member.description = label, unit, description
        return member

    MSE = "mse", "MSE", "A^2", "mean squared error per coordinate at one lag"
    MSE_ALIGNED = (
        "mse_aligned",
        "MSE aligned",
        "A^2",
        "the same after centroid removal and proper Kabsch rotation",
    )
    S2T = "s2t", "S2T", "A^2", "state to trajectory: mean squared error over all steps"
    S2S = "s2s", "S2S", "A^2", "state to state: mean squared error at the last step"
    S2T_ALIGNED = (
        "s2t_aligned",
        "S2T aligned",
        "A^2",
        "S2T, each step superposed on its target first",
    )
    S2S_ALIGNED = (
        "s2s_aligned",
        "S2S aligned",
        "A^2",
        "S2S, the step superposed on its target first",
    )
    S2T_STORED_FRAME = (
        "s2t_stored_frame",
        "S2T as stored",
        "A^2",
        "S2T of the windows as they are stored, not turned: a diagnostic",
    )
    S2S_STORED_FRAME = (
        "s2s_stored_frame",
        "S2S as stored",
        "A^2",
        "S2S of the windows as they are stored, not turned: a diagnostic",
    )
    SKILL = (
        "skill",
        "skill",
        "1",
        "1 - MSE / MSE of the reference of the task, per molecule and lag",
    )
    SKILL_ALIGNED = "skill_aligned", "skill aligned", "1", "skill in the aligned error"
    VALID = (
        "valid",
        "valid",
        "1",
        "share of structures whose scored atoms have all bonds and angles within range",
    )
    VALID_ALL_ATOMS = (
        "valid_all_atoms",
        "valid, all atoms",
        "1",
        "the same of all atoms that are given, hydrogens too",
    )
    BOND_DISTANCE = (
        "bond_distance",
        "bond distance",
        "A",
        "Wasserstein-1 distance of bond lengths to the data's, mean over bonds among scored atoms",
    )
    BOND_DISTANCE_ALL_ATOMS = (
        "bond_distance_all_atoms",
        "bond distance, all atoms",
        "A",
        "the same of all atoms that are given",
    )


def squared_errors(
    predicted: torch.Tensor, target: torch.Tensor, score_mask: torch.Tensor, lags_fs: torch.Tensor
) -> np.ndarray:
    """Compute squared errors per window and step, averaged over scored atoms and 3 coordinates.

    Args:
        predicted: (B, P, N, 3) A.
        target: (B, P, N, 3) A.
        score_mask: (B, N) bool.
        lags_fs: (B, P) fs, NaN = padding.

    Returns:
        (B, P) float64 A^2, NaN where padded.
    """
    mask = score_mask[:, None, :, None]
    square = torch.where(mask, predicted.double() - target.double(), 0.0).square().sum((-1, -2))
    mean = square / (3 * score_mask.sum(-1, keepdim=True))
    return torch.where(torch.isnan(lags_fs), torch.nan, mean).numpy()


def aligned_squared_errors(
    predicted: torch.Tensor, target: torch.Tensor, score_mask: torch.Tensor, lags_fs: torch.Tensor
) -> np.ndarray:
    """Compute `squared_errors` after removing both centroids and aligning the prediction.

    Unweighted centroid of the scored atoms and proper rotation, step by step. NaN also where fewer
    than 3 atoms are scored: a rotation would hide most of the error.
    """
    weights = score_mask.double()[:, None, :].expand(*predicted.shape[:3])
    centred = [_centred(x.double(), weights) for x in (predicted, target)]
    rotation = kabsch_rotation(*centred)
    turned = centred[0] @ rotation.transpose(-1, -2)
    errors = squared_errors(turned, centred[1], score_mask, lags_fs)
    return np.where(score_mask.sum(-1, keepdim=True).numpy() < 3, np.nan, errors)


def _centred(positions: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    positions = torch.where(weights[..., None] > 0, positions, 0.0)
    centroid = positions.sum(-2, keepdim=True) / weights.sum(-1)[..., None, None]
    return torch.where(weights[..., None] > 0, positions - centroid, 0.0)


def s2t(errors: np.ndarray) -> np.ndarray:
    """Average over the steps of each window: (n_starts, P) -> (n_starts,), padding ignored."""
    return _nanmean(errors, axis=1)


def s2s(errors: np.ndarray) -> np.ndarray:
    """Take the error at the last step of each window, padding left out: (n_starts, P) -> (n,)."""
    errors = np.asarray(errors, dtype=float)
    last = errors.shape[1] - 1 - np.argmax(~np.isnan(errors[:, ::-1]), axis=1)
    return errors[np.arange(len(errors)), last]


def per_molecule(errors: np.ndarray, molecules: Sequence[str]) -> dict[str, np.ndarray]:
    """Average over the windows of each molecule: (n_starts, ...) -> {molecule: (...)}."""
    names = np.asarray(molecules)
    return {name: _nanmean(errors[names == name], axis=0) for name in dict.fromkeys(molecules)}


def mean_over_molecules(values: Mapping[str, np.ndarray]) -> np.ndarray:
    """Average per-molecule values; molecules without a value (NaN) are left out."""
    return _nanmean(np.array(list(values.values()), dtype=float), axis=0)


def median_over_molecules(values: Mapping[str, np.ndarray]) -> np.ndarray:
    """Take the median of per-molecule values; molecules without a value (NaN) are left out."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # no molecule has a value
        return np.asarray(np.nanmedian(list(values.values()), axis=0))


def pooled(errors: np.ndarray) -> np.ndarray:
    """Average over all windows whatever their molecule: (n_starts, ...) -> (...)."""
    return _nanmean(errors, axis=0)


def best_reference(references: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Find the smallest error of any legal reference, for each molecule and lag on its own.

    Args:
        references: {reference: {molecule: (P,) mean squared errors}}, the legal ones only.
    """
    tables = list(references.values())
    return {name: np.min([table[name] for table in tables], axis=0) for name in tables[0]}


def chosen_references(references: Mapping[str, Mapping[str, np.ndarray]]) -> list[str]:
    """Choose one reference a lag: that of the smallest geometric mean over molecules.

    Args:
        references: {reference: {molecule: (P,) mean squared errors}}, the legal ones only.
    """
    tiny = np.finfo(float).tiny  # No error at all has no logarithm.
    logs = [
        mean_over_molecules({name: np.log(np.maximum(one, tiny)) for name, one in table.items()})
        for table in references.values()
    ]
    names = list(references)
    return [names[i] for i in np.argmin(logs, axis=0)]


def skill(
    errors: Mapping[str, np.ndarray], reference: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Compute 1 - MSE / MSE_ref per molecule and lag; NaN where the reference makes no error."""
    result = {}
    for name, value in errors.items():
        floor = np.where(np.asarray(reference[name]) > 0, reference[name], np.nan)
        result[name] = 1.0 - value / floor
    return result


def _nanmean(values: np.ndarray, axis: int) -> np.ndarray:
    values = np.asarray(values, dtype=float)
    present = ~np.isnan(values)
    count = present.sum(axis=axis)
    total = np.where(present, values, 0.0).sum(axis=axis)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
