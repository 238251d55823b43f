"""Harmonic motion in closed form, for all lags at once, differentiable in the force constants.

x'' = a - A (x - x0) has the solution

    x(t) - x0 = g(A) v0 + h(A) a,    g = D sin(w t) / w,    h = (1 - D cos(w t)) / w^2,

with w^2 the eigenvalues of A. D = exp(-(s w t)^2 / 2 - (s0 t)^2 / 2) is what is left of a phase
whose frequency is known to a share s, and s0: D = 1 is the plain solution, and where phases are
lost the motion ends at the rest structure. Positions and velocities at t = 0 are exact.

References:
    Backward pass: derivatives of spectral functions by divided differences, Daleckii and Krein
    (1965); Higham, Functions of Matrices (2008), theorem 3.11.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# w^2 of 15 cm-1, (rad/fs)^2: eigenvalues go smoothly to this, and not below zero.
SOFTEST = (15.0 * 2 * math.pi * 2.99792458e-5) ** 2
# Of eigenvalues, below which a divided difference is taken as a derivative.
_NEAR = 1e-6


class Spectral(NamedTuple):
    """g and h of eigenvalues, and their derivatives by eigenvalue and by the variance of w."""

    g: Tensor
    h: Tensor
    g_slope: Tensor
    h_slope: Tensor
    g_spread: Tensor
    h_spread: Tensor


def _never_negative(values: Tensor) -> tuple[Tensor, Tensor]:
    """w^2 of eigenvalues of either sign, and a root that its slope is made of."""
    root = (values.square() + 4 * SOFTEST**2).sqrt()
    return (values + root) / 2, root  # positive, and nearly the eigenvalue where that is large


def left_of_phase(values: Tensor, spread: Tensor, t: Tensor) -> Tensor:
    """D of eigenvalues at time t; arguments as for `spectral`."""
    square, _ = _never_negative(values)
    return (-t.square() * (spread[0] * square + spread[1]) / 2).exp()


def spectral(values: Tensor, spread: Tensor, t: Tensor) -> Spectral:
    """g and h at time t; all broadcast.

    Args:
        values: eigenvalues of A, (rad/fs)^2, of either sign.
        spread: (2,) s^2, and s0^2 in (rad/fs)^2.
        t: fs.
    """
    square, root = _never_negative(values)
    w, lost = square.sqrt(), left_of_phase(values, spread, t)
    cos, sin = lost * (w * t).cos(), lost * (w * t).sin()
    g, h = sin / w, (1 - cos) / square
    half = t.square() / 2
    cos_slope = -half * spread[0] * cos - sin * t / (2 * w)
    g_slope = -half * spread[0] * g + (cos * t - g) / (2 * square)
    h_slope = -(cos_slope + h) / square
    bend = (1 + values / root) / 2
    return Spectral(g, h, g_slope * bend, h_slope * bend, -half * g, half * cos / square)


class Flow(torch.autograd.Function):
    """g(A) v + h(A) a of B windows of M molecules, at P lags."""

    @staticmethod
    def forward(
        ctx: Any,
        stiffness: Tensor,
        velocities: Tensor,
        accelerations: Tensor,
        lags_fs: Tensor,
        spread: Tensor,
        owner: Tensor,
    ) -> Tensor:
        """How far windows move.

        Args:
            ctx: torch's.
            stiffness: (M, D, D) symmetric, (rad/fs)^2.
            velocities: (B, D) mass-weighted.
            accelerations: (B, P, D) mass-weighted, at the start, those that act up to each lag.
            lags_fs: (B, P).
            spread: (2,) as for `spectral`.
            owner: (B,) molecule of each window.

        Returns:
            (B, P, D) mass-weighted.
        """
        values, vectors = torch.linalg.eigh(stiffness)
        mine = vectors[owner]
        v, a = velocities[:, None] @ mine, accelerations @ mine
        f = spectral(values[owner][:, None], spread, lags_fs[..., None])
        ctx.save_for_backward(values, vectors, v, a, lags_fs, spread, owner)
        return (f.g * v + f.h * a) @ mine.transpose(1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of all but lags and owners."""
        values, vectors, v, a, lags_fs, spread, owner = ctx.saved_tensors
        mine, own = vectors[owner], values[owner]
        inner = grad @ mine
        f = spectral(own[:, None], spread, lags_fs[..., None])
        by_v, by_a = (f.g * inner).sum(1), f.h * inner
        gap = own[:, :, None] - own[:, None]
        near = gap.abs() < _NEAR * (1 + own.abs().amax(1)[:, None, None])
        gap = torch.where(near, 1.0, gap)
        total = torch.zeros_like(gap)
        for p in range(lags_fs.shape[1]):
            for part, slope, content in ((f.g, f.g_slope, v[:, 0]), (f.h, f.h_slope, a[:, p])):
                y, dy = part[:, p], slope[:, p]
                divided = torch.where(
                    near,
                    (dy[:, :, None] + dy[:, None]) / 2,
                    (y[:, :, None] - y[:, None]) / gap,
                )
                total += inner[:, p, :, None] * divided * content[:, None]
        summed = torch.zeros_like(vectors).index_add(0, owner, total)
        by_stiffness = vectors @ summed @ vectors.transpose(1, 2)
        by_variance = inner * (f.g_spread * v + f.h_spread * a)
        square, _ = _never_negative(own)
        by_spread = torch.stack([(by_variance * square[:, None]).sum(), by_variance.sum()])
        return (
            (by_stiffness + by_stiffness.transpose(1, 2)) / 2,
            (by_v[:, None] @ mine.transpose(1, 2))[:, 0],
            by_a @ mine.transpose(1, 2),
            None,
            by_spread,
            None,
        )
