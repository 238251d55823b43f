"""How the weights of the grid respond when atoms move: compiled inner loop.

A point belongs to one atom, moves with it, and has a weight w = v P_A / sum_B P_B, where P_B is the
product over all other atoms C of s(nu_BC), Becke's smoothed step. Only what other atoms do to the
point's weight is derived here; the point's own atom takes the opposite of the sum, as moving all
atoms together changes nothing.

References:
    Becke, doi:10.1063/1.454033, with the atomic sizes of Treutler and Ahlrichs,
    doi:10.1063/1.469408; Johnson, Gill, Pople, doi:10.1063/1.464906 (derivatives of the weights).
"""

import numpy as np
from numba import njit

from pipelines.engines.dft.kernels.gaussians import FAST

# Energy at a point, hartree, below which its weight's response is not worth finding.
_SMALLEST_ENERGY = 1e-12
# From this nu on an atom's step against another is 1e-10.
_FARTHEST = 0.96
_SMALLEST_STEP = 1e-14


@njit(cache=True, nogil=True, fastmath=FAST)
def add_weight_response(points, owners, energies, centres, sizes, gradient):
    """Add sum over points of e dw/dR.

    Args:
        points: (n_blocks, 3, n_points) bohr.
        owners: (n_blocks, n_points) atoms that the points belong to.
        energies: (n_blocks, n_points) e w, hartree.
        centres: (n_atoms, 3) of the atoms, bohr.
        sizes: (n_atoms, n_atoms) Becke's a_BC, from the ratio of two atoms' sizes.
        gradient: (n_atoms, 3), hartree/bohr, added to.
    """
    n_atoms = len(centres)
    inverse = np.zeros((n_atoms, n_atoms))
    for b in range(n_atoms):
        for c in range(n_atoms):
            if b != c:
                inverse[b, c] = 1.0 / np.sqrt(((centres[b] - centres[c]) ** 2).sum())
    apart = np.empty(n_atoms)
    near = np.empty(n_atoms, dtype=np.int64)
    # Of the step of c against b, at the place of a pair in `near`: value, slope by mu, and mu.
    step = np.empty((n_atoms, n_atoms))
    slope, mus = np.empty_like(step), np.empty_like(step)
    share = np.empty(n_atoms)
    for block in range(len(points)):
        for p in range(points.shape[2]):
            energy = energies[block, p]
            if abs(energy) < _SMALLEST_ENERGY:
                continue
            owner = owners[block, p]
            x, y, z = points[block, 0, p], points[block, 1, p], points[block, 2, p]
            for b in range(n_atoms):
                dx, dy, dz = x - centres[b, 0], y - centres[b, 1], z - centres[b, 2]
                apart[b] = np.sqrt(dx * dx + dy * dy + dz * dz)
            n_near, at_owner = _find_near(owner, apart, inverse, sizes, near)
            total = _shares(near[:n_near], apart, inverse, sizes, step, slope, mus, share)
            for j in range(n_near):
                if j == at_owner:
                    continue
                b = near[j]
                # d mu_cb / d R_b has a part along the point and one along the other atom.
                to_point, gx, gy, gz = 0.0, 0.0, 0.0, 0.0
                for i in range(n_near):
                    if i == j or step[i, j] < _SMALLEST_STEP or step[j, i] < _SMALLEST_STEP:
                        continue
                    c = near[i]
                    change = -(share[i] / step[i, j] - share[j] / step[j, i]) / total
                    if i == at_owner:
                        change += 1.0 / step[i, j]
                    change *= slope[i, j] * inverse[c, b]
                    to_point += change
                    along = change * mus[i, j] * inverse[c, b]
                    gx -= along * (centres[b, 0] - centres[c, 0])
                    gy -= along * (centres[b, 1] - centres[c, 1])
                    gz -= along * (centres[b, 2] - centres[c, 2])
                if apart[b] > 0.0:
                    to_point /= apart[b]
                gx = energy * (gx + to_point * (x - centres[b, 0]))
                gy = energy * (gy + to_point * (y - centres[b, 1]))
                gz = energy * (gz + to_point * (z - centres[b, 2]))
                gradient[b, 0] += gx
                gradient[b, 1] += gy
                gradient[b, 2] += gz
                gradient[owner, 0] -= gx
                gradient[owner, 1] -= gy
                gradient[owner, 2] -= gz


@njit(cache=True, nogil=True, fastmath=FAST)
def _find_near(owner, apart, inverse, sizes, near):
    """Put the atoms that matter at a point into `near`; their number, and the owner's place.

    Those with a share of the point, by their step against the nearest atom, the owner, and those
    whose step against any of these is not over.
    """
    nearest = apart.argmin()
    n_atoms = len(apart)
    n_near, at_owner = 0, 0
    for b in range(n_atoms):
        if b == owner:
            at_owner = n_near
        elif b != nearest and _nu(b, nearest, apart, inverse, sizes) > _FARTHEST:
            continue
        near[n_near] = b
        n_near += 1
    n_sharing = n_near
    for b in range(n_atoms):
        alone = b != owner and b != nearest
        if not alone or _nu(b, nearest, apart, inverse, sizes) <= _FARTHEST:
            continue
        for i in range(n_sharing):
            if _nu(b, near[i], apart, inverse, sizes) <= _FARTHEST:
                near[n_near] = b
                n_near += 1
                break
    return n_near, at_owner


@njit(cache=True, nogil=True, fastmath=FAST)
def _nu(b, c, apart, inverse, sizes):
    mu = (apart[b] - apart[c]) * inverse[b, c]
    return mu + sizes[b, c] * (1.0 - mu * mu)


@njit(cache=True, nogil=True, fastmath=FAST)
def _shares(near, apart, inverse, sizes, step, slope, mus, share):
    """Fill the steps of all pairs and the products P of the atoms in `near`; the sum of these."""
    n_near = len(near)
    share[:n_near] = 1.0
    for i in range(n_near):
        b = near[i]
        for j in range(i):
            c = near[j]
            mu = (apart[b] - apart[c]) * inverse[b, c]
            first = _nu(b, c, apart, inverse, sizes)
            second = 0.5 * first * (3.0 - first * first)
            third = 0.5 * second * (3.0 - second * second)
            fourth = 0.5 * third * (3.0 - third * third)
            value = 0.5 * (1.0 - fourth)
            steep = (1.0 - first * first) * (1.0 - second * second) * (1.0 - third * third)
            step[i, j], step[j, i] = value, 1.0 - value
            slope[i, j] = slope[j, i] = -0.5 * 3.375 * steep * (1.0 - 2.0 * sizes[b, c] * mu)
            mus[i, j], mus[j, i] = mu, -mu
            share[i] *= value
            share[j] *= 1.0 - value
    total = 0.0
    for i in range(n_near):
        total += share[i]
    return total
