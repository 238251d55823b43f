"""Becke's weights of the grid and how they respond when atoms move: compiled inner loops.

A point belongs to one atom, moves with it, and has a weight w = v P_A / sum_B P_B, where P_B is the
product over all other atoms C of s(nu_BC), Becke's smoothed step. Points come in blocks that lie
together, on which few atoms matter. Of the response, only what other atoms do to the point's weight
is derived; the point's own atom takes the opposite of the sum, as moving all atoms together changes
nothing.

References:
    Becke, doi:10.1063/1.454033, with the atomic sizes of Treutler and Ahlrichs,
    doi:10.1063/1.469408; Johnson, Gill, Pople, doi:10.1063/1.464906 (derivatives of the weights).
"""

import numpy as np
from numba import njit

from pipelines.engines.dft.kernels.compiling import inlined, kernel

# From this nu on an atom's step against another is 1e-10.
_FARTHEST = 0.96
_SMALLEST_STEP = 1e-14
_TOGETHER = 256  # points in a block of `becke_weights`


@kernel
def becke_weights(points, owners, volumes, centres, sizes, weights):
    """Weights of grid points.

    Args:
        points: (n_points, 3) bohr; neighbours side by side.
        owners: (n_points,) atoms that the points belong to.
        volumes: (n_points,) of the points on a lone atom, bohr^3.
        centres: (n_atoms, 3) of the atoms, bohr.
        sizes: (n_atoms, n_atoms) Becke's a_BC, from the ratio of two atoms' sizes.
        weights: result, (n_points,) bohr^3.
    """
    n_atoms = len(centres)
    inverse = _inverse_distances(centres)
    here, owner = np.empty((3, _TOGETHER)), np.empty(_TOGETHER, dtype=np.int64)
    apart, shares = np.empty((n_atoms, _TOGETHER)), np.empty((n_atoms, _TOGETHER))
    near = np.empty(n_atoms, dtype=np.int64)
    for start in range(0, len(points), _TOGETHER):
        for p in range(_TOGETHER):
            point = min(start + p, len(points) - 1)
            here[:, p] = points[point]
            owner[p] = owners[point]
        _find_distances(here, centres, apart)
        n_near = _find_near(owner, apart, inverse, sizes, near)
        shares[:n_near] = 1.0
        for i in range(n_near):
            for j in range(i):
                b, c = near[i], near[j]
                for p in range(_TOGETHER):
                    mu = (apart[b, p] - apart[c, p]) * inverse[b, c]
                    step = _step_and_slope(mu, sizes[b, c])[0]
                    shares[i, p] *= step
                    shares[j, p] *= 1.0 - step
        for p in range(min(_TOGETHER, len(points) - start)):
            own, total = 0.0, 0.0
            for i in range(n_near):
                total += shares[i, p]
                if near[i] == owner[p]:
                    own = shares[i, p]
            weights[start + p] = volumes[start + p] * own / total


@njit(cache=True, nogil=True)
def _inverse_distances(centres):
    n_atoms = len(centres)
    inverse = np.zeros((n_atoms, n_atoms))
    for b in range(n_atoms):
        for c in range(n_atoms):
            if b != c:
                inverse[b, c] = 1.0 / np.sqrt(((centres[b] - centres[c]) ** 2).sum())
    return inverse


@inlined
def _find_distances(here, centres, apart):
    """Fill apart (n_atoms, n_points) with the distances of points (3, n_points) from atoms."""
    for b in range(len(centres)):
        for p in range(here.shape[1]):
            x, y, z = (
                here[0, p] - centres[b, 0],
                here[1, p] - centres[b, 1],
                here[2, p] - centres[b, 2],
            )
            apart[b, p] = np.sqrt(x * x + y * y + z * z)


@kernel
def add_weight_response(points, owners, energies, centres, sizes, gradient):
    """Add sum over points of e dw/dR.

    Args:
        points: (n_blocks, 3, n_points) bohr; those of a block lie together.
        owners: (n_blocks, n_points) atoms that the points belong to.
        energies: (n_blocks, n_points) e w, hartree.
        centres: (n_atoms, 3) of the atoms, bohr.
        sizes: (n_atoms, n_atoms) Becke's a_BC, from the ratio of two atoms' sizes.
        gradient: (n_atoms, 3), hartree/bohr, added to.
    """
    n_atoms, n_points = len(centres), points.shape[2]
    inverse = _inverse_distances(centres)
    apart = np.empty((n_atoms, n_points))
    near = np.empty(n_atoms, dtype=np.int64)
    # By the place of a pair in `near`: the step of the first against the second, and its slope.
    steps, slopes = (np.empty((n_atoms, n_atoms, n_points)), np.empty((n_atoms, n_atoms, n_points)))
    shares, inverse_totals = np.empty((n_atoms, n_points)), np.empty(n_points)
    outward = np.empty((n_atoms, n_points))  # what acts along the line from an atom to the point
    pull = np.empty((3, n_points))
    for block in range(len(points)):
        here, owner, energy = points[block], owners[block], energies[block]
        _find_distances(here, centres, apart)
        n_near = _find_near(owner, apart, inverse, sizes, near)
        _find_steps(near[:n_near], apart, inverse, sizes, steps, slopes, shares, inverse_totals)
        pull[:] = 0.0
        outward[:n_near] = 0.0
        for i in range(n_near):
            for j in range(i):
                _add_pair(
                    near[i], near[j], owner, energy, centres, inverse, apart, steps[i, j],
                    slopes[i, j], shares[i], shares[j], inverse_totals, outward[i], outward[j],
                    pull, gradient,
                )  # fmt: skip
        for i in range(n_near):
            b = near[i]
            for x in range(3):
                moved = 0.0
                for p in range(n_points):
                    change = outward[i, p] * (here[x, p] - centres[b, x]) / max(apart[b, p], 1e-10)
                    moved += change
                    pull[x, p] -= change
                gradient[b, x] += moved
        for p in range(n_points):
            for x in range(3):
                gradient[owner[p], x] += pull[x, p]


@inlined
def _find_near(owner, apart, inverse, sizes, near):
    """Put the atoms that matter on a block into `near`; their number.

    Those with a share of some point, by their step against the atom nearest to it, the owners, and
    those whose step against any of these is not over.
    """
    n_atoms, n_points = apart.shape
    sharing = np.zeros(n_atoms, dtype=np.bool_)
    nearest = np.zeros(n_points, dtype=np.int64)
    for p in range(n_points):
        sharing[owner[p]] = True
        for b in range(1, n_atoms):
            if apart[b, p] < apart[nearest[p], p]:
                nearest[p] = b
        sharing[nearest[p]] = True
    for b in range(n_atoms):
        for p in range(n_points):
            if sharing[b]:
                break
            c = nearest[p]
            sharing[b] = _nu(apart[b, p], apart[c, p], inverse[b, c], sizes[b, c]) <= _FARTHEST
    n_near = 0
    for b in range(n_atoms):
        found = sharing[b]
        for c in range(n_atoms):
            if found or not sharing[c]:
                continue
            least = 1.0
            for p in range(n_points):
                nu = _nu(apart[b, p], apart[c, p], inverse[b, c], sizes[b, c])
                least = min(least, nu)
            found = least <= _FARTHEST
        if found:
            near[n_near] = b
            n_near += 1
    return n_near


@inlined
def _nu(first, second, inverse, size):
    mu = (first - second) * inverse
    return mu + size * (1.0 - mu * mu)


@inlined
def _step_and_slope(mu, size):
    """Becke's smoothed step s(nu(mu)) and its derivative by mu."""
    first = mu + size * (1.0 - mu * mu)
    second = 0.5 * first * (3.0 - first * first)
    third = 0.5 * second * (3.0 - second * second)
    fourth = 0.5 * third * (3.0 - third * third)
    steep = (1.0 - first * first) * (1.0 - second * second) * (1.0 - third * third)
    return 0.5 * (1.0 - fourth), -0.5 * 3.375 * steep * (1.0 - 2.0 * size * mu)


@inlined
def _find_steps(near, apart, inverse, sizes, steps, slopes, shares, inverse_totals):
    """Fill steps and slopes (by mu) of all pairs, the products P, and one over their sum."""
    n_near, n_points = len(near), apart.shape[1]
    shares[:n_near] = 1.0
    for i in range(n_near):
        for j in range(i):
            b, c = near[i], near[j]
            scale, size = inverse[b, c], sizes[b, c]
            for p in range(n_points):
                mu = (apart[b, p] - apart[c, p]) * scale
                step, slope = _step_and_slope(mu, size)
                steps[i, j, p] = step
                slopes[i, j, p] = slope
                shares[i, p] *= step
                shares[j, p] *= 1.0 - step
    inverse_totals[:] = 0.0
    for i in range(n_near):
        for p in range(n_points):
            inverse_totals[p] += shares[i, p]
    for p in range(n_points):
        inverse_totals[p] = 1.0 / inverse_totals[p]


@inlined
def _add_pair(
    b, c, owner, energy, centres, inverse, apart, step, slope, share_b, share_c, inverse_total,
    outward_b, outward_c, pull, gradient,
):  # fmt: skip
    """Add what the step between two atoms does when either moves, unless it owns the point.

    mu_bc = (d_b - d_c) / R changes with an atom's distance to the point and to the other atom.
    """
    scale = inverse[b, c]
    moved_b, moved_c = 0.0, 0.0
    x, y, z = centres[b] - centres[c]
    for p in range(len(step)):
        over, under = step[p], 1.0 - step[p]
        sound = min(over, under) > _SMALLEST_STEP
        over = 1.0 / over if sound else 0.0
        under = 1.0 / under if sound else 0.0
        both = (share_b[p] * over - share_c[p] * under) * inverse_total[p]
        here = energy[p] * slope[p] * scale
        # The weight's logarithm by mu_bc; nothing of it for the owner itself.
        for_b, for_c = owner[p] == b, owner[p] == c
        change_c = 0.0 if for_c else here * ((over if for_b else 0.0) - both)
        change_b = 0.0 if for_b else here * ((under if for_c else 0.0) + both)
        outward_c[p] += change_c
        outward_b[p] += change_b
        along = (apart[b, p] - apart[c, p]) * scale * scale
        change_c *= along
        change_b *= along
        moved_c += change_c
        moved_b += change_b
        pull[0, p] -= (change_c + change_b) * x
        pull[1, p] -= (change_c + change_b) * y
        pull[2, p] -= (change_c + change_b) * z
    for axis in range(3):
        gradient[c, axis] += moved_c * (centres[b, axis] - centres[c, axis])
        gradient[b, axis] += moved_b * (centres[b, axis] - centres[c, axis])
