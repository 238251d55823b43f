"""First and second derivatives of internal coordinates by the positions of their atoms.

Written out: all coordinates but lengths are functions of unit vectors between atoms, linear in each
(cosines and triple products), or of such functions (dihedrals).

References:
    Wilson, Decius and Cross, Molecular Vibrations (1955), chapter 4; Bakken and Helgaker,
    doi:10.1063/1.1515483, for second derivatives.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

# Kind of coordinate -> the differences it is a function of, as (to, from) among its atoms.
_DIFFERENCES = {
    "lengths": ((0, 1),),
    "cosines": ((0, 1), (2, 1)),
    "dihedrals": ((1, 0), (2, 1), (3, 2)),
    "twists": ((1, 0), (2, 1), (3, 2)),
    "heights": ((1, 0), (2, 0), (3, 0)),
    "distances": ((0, 1),),
}
_LEAST_SQUARED_SINE = 1e-6


class Derivatives(NamedTuple):
    """Of m functions of k difference vectors: slopes (m, k, 3) and curvatures (m, k, 3, k, 3)."""

    slopes: Tensor
    curvatures: Tensor


def derivatives_of(kind: str, x: Tensor) -> tuple[Tensor, Tensor]:
    """Slopes (m, 3a) and curvatures (m, 3a, 3a) of coordinates of a kind, atoms at x (m, a, 3)."""
    pairs = _DIFFERENCES[kind]
    signs = x.new_zeros(len(pairs), x.shape[1])
    for row, (head, tail) in enumerate(pairs):
        signs[row, head], signs[row, tail] = 1.0, -1.0
    d = torch.einsum("ka,mai->mki", signs, x)
    found = _FUNCTIONS[kind](d)
    slopes = torch.einsum("ka,mki->mai", signs, found.slopes).flatten(1)
    curved = torch.einsum("ka,mkilj,lb->maibj", signs, found.curvatures, signs)
    return slopes, curved.flatten(1, 2).flatten(2, 3)


def _length(d: Tensor) -> Derivatives:
    size = d.norm(dim=-1, keepdim=True)
    unit = d / size
    curved = _across(unit) / size[..., None]
    return Derivatives(unit, curved[:, :, :, None])


def _cosine(d: Tensor) -> Derivatives:
    """Of the angle between two vectors."""
    unit = d / d.norm(dim=-1, keepdim=True)
    one = torch.eye(3, dtype=d.dtype, device=d.device).expand(len(d), 3, 3)
    return _multilinear(d, unit, unit.flip(1), {(0, 1): one})


def _triple(d: Tensor) -> Derivatives:
    """Of the triple product of three unit vectors."""
    unit = d / d.norm(dim=-1, keepdim=True)
    p, q, r = unit.unbind(1)
    cross = torch.linalg.cross
    others = torch.stack([cross(q, r), cross(r, p), cross(p, q)], dim=1)
    mixed = {(0, 1): -_turning(r), (0, 2): _turning(q), (1, 2): -_turning(p)}
    return _multilinear(d, unit, others, mixed)


def _dihedral(d: Tensor) -> Derivatives:
    """Of its cosine: (s t - w) / (sin sin), s, t and w the cosines between the three vectors."""
    unit = d / d.norm(dim=-1, keepdim=True)
    pairs = ((0, 1), (1, 2), (0, 2))
    s, t, w = ((unit[:, i] * unit[:, j]).sum(-1) for i, j in pairs)
    slopes, curved = _slopes_of_dihedral(s, t, w)
    inner = d.new_zeros(len(d), 3, 3, 3)
    total = d.new_zeros(len(d), 3, 3, 3, 3)
    for k, pair in enumerate(pairs):
        both = list(pair)
        found = _cosine(d[:, both])
        inner[:, k, both] = found.slopes
        for i in (0, 1):
            for j in (0, 1):
                part = slopes[:, k, None, None] * found.curvatures[:, i, :, j]
                total[:, pair[i], :, pair[j]] += part
    total = total + torch.einsum("mpki,mpq,mqlj->mkilj", inner, curved, inner)
    return Derivatives(torch.einsum("mp,mpki->mki", slopes, inner), total)


def _slopes_of_dihedral(s: Tensor, t: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """Derivatives (m, 3) and (m, 3, 3) of (s t - w) / sqrt((1 - s^2) (1 - t^2)) by s, t, w."""
    (a, a1, a2), (b, b1, b2) = (_over_sine(cosine) for cosine in (s, t))
    n = s * t - w
    st = a * b + t * a * b1 + s * a1 * b + n * a1 * b1
    ss, tt = 2 * t * a1 * b + n * a2 * b, 2 * s * a * b1 + n * a * b2
    sw, tw = -a1 * b, -a * b1
    slopes = torch.stack([t * a * b + n * a1 * b, s * a * b + n * a * b1, -a * b], dim=1)
    rows = [[ss, st, sw], [st, tt, tw], [sw, tw, torch.zeros_like(w)]]
    return slopes, torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)


def _over_sine(cosine: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """1 / sine as a function of the cosine, and its first two derivatives."""
    a = (1 - cosine.square()).clamp(min=_LEAST_SQUARED_SINE).rsqrt()
    return a, cosine * a**3, a**3 + 3 * cosine.square() * a**5


def _multilinear(
    d: Tensor, unit: Tensor, others: Tensor, mixed: dict[tuple[int, int], Tensor]
) -> Derivatives:
    """Of a function F that is linear in every unit vector.

    Args:
        d: (m, k, 3) vectors.
        unit: the same, of length 1.
        others: (m, k, 3) derivatives of F by the unit vectors, so that F = unit . others for each.
        mixed: its second derivatives (m, 3, 3) by two unit vectors.
    """
    m, k, _ = d.shape
    over = 1 / d.norm(dim=-1)
    value = (unit[:, 0] * others[:, 0]).sum(-1)[:, None, None]
    across, slope = _across(unit), others - value * unit
    outer = unit[..., :, None] * slope[..., None, :]
    own = -(outer + outer.transpose(-1, -2) + value[..., None] * across)
    own = own * over.square()[..., None, None]
    curved = d.new_zeros(m, k, 3, k, 3)
    for i in range(k):
        curved[:, i, :, i] = own[:, i]
    for (i, j), block in mixed.items():
        part = across[:, i] @ block @ across[:, j] * (over[:, i] * over[:, j])[:, None, None]
        curved[:, i, :, j], curved[:, j, :, i] = part, part.transpose(1, 2)
    return Derivatives(slope * over[..., None], curved)


def _across(unit: Tensor) -> Tensor:
    """Projections (..., 3, 3) across unit vectors (..., 3)."""
    one = torch.eye(3, dtype=unit.dtype, device=unit.device)
    return one - unit[..., :, None] * unit[..., None, :]


def _turning(v: Tensor) -> Tensor:
    """Matrices (m, 3, 3) that take the cross product of v (m, 3) with a vector."""
    x, y, z = v.unbind(1)
    none = torch.zeros_like(x)
    rows = [[none, -z, y], [z, none, -x], [-y, x, none]]
    return torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)


_FUNCTIONS = {
    "lengths": _length, "cosines": _cosine, "dihedrals": _dihedral, "twists": _triple,
    "heights": _triple, "distances": _length,
}  # fmt: skip
