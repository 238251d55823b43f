"""Rigid superposition of point sets."""

import torch


def kabsch_rotation(
    mobile: torch.Tensor, target: torch.Tensor, weights: torch.Tensor | None = None
) -> torch.Tensor:
    """Find proper rotations R that minimise sum_i w_i |R mobile_i - target_i|^2.

    Both sets must have their (weighted) centroid at the origin. Reflections are not allowed.

    Args:
        mobile: (..., N, 3).
        target: (..., N, 3).
        weights: (..., N), None for equal ones.

    Returns:
        (..., 3, 3).

    References:
        Kabsch (1976), doi:10.1107/S0567739476001873; sign of the determinant: Umeyama (1991),
        doi:10.1109/34.88573.
    """
    weighted = target if weights is None else target * weights[..., None]
    covariance = weighted.transpose(-1, -2) @ mobile
    u, _, vh = torch.linalg.svd(covariance)
    # The direction of the smallest singular value is flipped where U Vh would be a reflection.
    sign = torch.linalg.det(u @ vh)
    flip = torch.ones(*sign.shape, 3, dtype=u.dtype, device=u.device)
    flip[..., 2] = torch.where(sign < 0, -1.0, 1.0).to(u.dtype)
    return (u * flip[..., None, :]) @ vh


def superpose(mobile: torch.Tensor, target: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Move `mobile` rigidly onto `target`: weighted centroids together, then Kabsch.

    Args:
        mobile: (..., N, 3) A.
        target: (..., N, 3) A.
        weights: (..., N), 0 for padding.

    Returns:
        (..., N, 3) A.
    """
    mobile_centred = mobile - weighted_centroid(mobile, weights)
    centre = weighted_centroid(target, weights)
    rotation = kabsch_rotation(mobile_centred, target - centre, weights)
    return mobile_centred @ rotation.transpose(-1, -2) + centre


def weighted_centroid(positions: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Compute the centroid (..., 1, 3) of positions (..., N, 3) under weights (..., N)."""
    total = weights.sum(-1, keepdim=True)[..., None]
    return (positions * weights[..., None]).sum(-2, keepdim=True) / total
