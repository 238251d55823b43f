"""Compiled inner loops of the gradient on the grid: what moves with an atom, and with a point.

Second derivatives of the basis functions are needed, but only their contraction with the density is
formed, shell by shell: the harmonics of s, p and d shells are a constant, a linear and a quadratic
form, of others they are evaluated with their derivatives.
"""

import numpy as np

from pipelines.engines.dft.kernels.compiling import inlined, kernel
from pipelines.engines.dft.kernels.gaussians import distances
from pipelines.engines.dft.kernels.grid_kernels import (
    evaluate_shell,
    part_of,
    projected_part,
    room_for_parts,
    rows_of,
)

# What the shells of an atom add up to in the integrand of a gradient, as rows of one array: with u,
# the derivatives of the energy density by the density's gradient, and d from the atom, it is
# rows 0 to 2 plus u times row 3 plus d times row 4. Row 5 is u d.
_N_SUMS = 6


@inlined
def _begin_atom(d, u, sums):
    """Empty the sums for an atom; d (3, n_points) from it, u (4 or more, n_points)."""
    sums[:5] = 0.0
    for p in range(d.shape[1]):
        sums[5, p] = u[1, p] * d[0, p] + u[2, p] * d[1, p] + u[3, p] * d[2, p]


@inlined
def _end_atom(d, u, sums, pull, gradient):
    """Add an atom's integrand to pull (3, n_points), and the integral to its gradient (3,)."""
    for x in range(3):
        total = 0.0
        for p in range(d.shape[1]):
            here = sums[x, p] + u[1 + x, p] * sums[3, p] + d[x, p] * sums[4, p]
            total += here
            pull[x, p] += here
        gradient[x] -= 4.0 * total


@inlined
def _add_s_shell(constant, radial, a, b, sums):
    """A constant times R; a and b are rows (n_points,)."""
    for p in range(a.shape[0]):
        r1, r2 = 2.0 * constant * radial[1, p], 4.0 * constant * radial[2, p]
        sums[3, p] += r1 * b[p]
        sums[4, p] += r1 * a[p] + r2 * sums[5, p] * b[p]


@inlined
def _add_p_shell(transform, d, radial, a, b, u, sums):
    """Linear harmonics, transform (3, 3) from x, y, z, times R; a and b (3, n_points)."""
    xx, xy, xz = transform[0, 0], transform[0, 1], transform[0, 2]
    yx, yy, yz = transform[1, 0], transform[1, 1], transform[1, 2]
    zx, zy, zz = transform[2, 0], transform[2, 1], transform[2, 2]
    for p in range(a.shape[1]):
        r0, r1, r2 = radial[0, p], 2.0 * radial[1, p], 4.0 * radial[2, p]
        ax = xx * a[0, p] + xy * a[1, p] + xz * a[2, p]
        ay = yx * a[0, p] + yy * a[1, p] + yz * a[2, p]
        az = zx * a[0, p] + zy * a[1, p] + zz * a[2, p]
        bx = xx * b[0, p] + xy * b[1, p] + xz * b[2, p]
        by = yx * b[0, p] + yy * b[1, p] + yz * b[2, p]
        bz = zx * b[0, p] + zy * b[1, p] + zz * b[2, p]
        steep = r1 * sums[5, p]
        sums[0, p] += r0 * ax + steep * bx
        sums[1, p] += r0 * ay + steep * by
        sums[2, p] += r0 * az + steep * bz
        a0 = d[0, p] * ax + d[1, p] * ay + d[2, p] * az
        b0 = d[0, p] * bx + d[1, p] * by + d[2, p] * bz
        along = u[1, p] * bx + u[2, p] * by + u[3, p] * bz
        sums[3, p] += r1 * b0
        sums[4, p] += r1 * (a0 + along) + r2 * sums[5, p] * b0


@inlined
def _add_d_shell(transform, d, radial, a, b, u, forms, sums):
    """Quadratic harmonics d^T Q d times R, with Q from transform (6, 5) and the rows.

    a and b (5, n_points); forms (2, 6, n_points) is scratch for the Q of both: xx, xy, xz, yy, yz,
    zz, each as in the polynomial.
    """
    for k in range(6):
        of_a, of_b = forms[0, k], forms[1, k]
        of_a[:] = 0.0
        of_b[:] = 0.0
        for m in range(5):
            weight = transform[k, m]
            if weight == 0.0:
                continue
            for p in range(a.shape[1]):
                of_a[p] += weight * a[m, p]
            for p in range(a.shape[1]):
                of_b[p] += weight * b[m, p]
    for p in range(a.shape[1]):
        x, y, z = d[0, p], d[1, p], d[2, p]
        ux, uy, uz = u[1, p], u[2, p], u[3, p]
        r0, r1, r2 = radial[0, p], 2.0 * radial[1, p], 4.0 * radial[2, p]
        xx, xy, xz = 2.0 * forms[0, 0, p], forms[0, 1, p], forms[0, 2, p]
        yy, yz, zz = 2.0 * forms[0, 3, p], forms[0, 4, p], 2.0 * forms[0, 5, p]
        ax, ay, az = xx * x + xy * y + xz * z, xy * x + yy * y + yz * z, xz * x + yz * y + zz * z
        a0 = 0.5 * (ax * x + ay * y + az * z)
        xx, xy, xz = 2.0 * forms[1, 0, p], forms[1, 1, p], forms[1, 2, p]
        yy, yz, zz = 2.0 * forms[1, 3, p], forms[1, 4, p], 2.0 * forms[1, 5, p]
        bx, by, bz = xx * x + xy * y + xz * z, xy * x + yy * y + yz * z, xz * x + yz * y + zz * z
        b0 = 0.5 * (bx * x + by * y + bz * z)
        steep = r1 * sums[5, p]
        sums[0, p] += r0 * (ax + xx * ux + xy * uy + xz * uz) + steep * bx
        sums[1, p] += r0 * (ay + xy * ux + yy * uy + yz * uz) + steep * by
        sums[2, p] += r0 * (az + xz * ux + yz * uy + zz * uz) + steep * bz
        sums[3, p] += r1 * b0
        sums[4, p] += r1 * (a0 + ux * bx + uy * by + uz * bz) + r2 * sums[5, p] * b0


@inlined
def _contract_with_harmonics(harmonics, rows, out):
    """sum_m S_m rows_m into out, by component."""
    for component in range(out.shape[0]):
        out[component] = 0.0
        for m in range(rows.shape[0]):
            for p in range(rows.shape[1]):
                out[component, p] += harmonics[component, m, p] * rows[m, p]


@inlined
def _add_shell(harmonics, radial, a, b, u, with_a, with_b, sums):
    """Any harmonics with their derivatives (10, 2l + 1, n_points) times R.

    a and b (2l + 1, n_points); with_a (4, n_points) and with_b (10, n_points) are scratch.
    """
    _contract_with_harmonics(harmonics, a, with_a)
    _contract_with_harmonics(harmonics, b, with_b)
    for p in range(a.shape[1]):
        r0, r1, r2 = radial[0, p], 2.0 * radial[1, p], 4.0 * radial[2, p]
        ux, uy, uz = u[1, p], u[2, p], u[3, p]
        bent_x = ux * with_b[4, p] + uy * with_b[5, p] + uz * with_b[6, p]
        bent_y = ux * with_b[5, p] + uy * with_b[7, p] + uz * with_b[8, p]
        bent_z = ux * with_b[6, p] + uy * with_b[8, p] + uz * with_b[9, p]
        steep = r1 * sums[5, p]
        sums[0, p] += r0 * (with_a[1, p] + bent_x) + steep * with_b[1, p]
        sums[1, p] += r0 * (with_a[2, p] + bent_y) + steep * with_b[2, p]
        sums[2, p] += r0 * (with_a[3, p] + bent_z) + steep * with_b[3, p]
        along = ux * with_b[1, p] + uy * with_b[2, p] + uz * with_b[3, p]
        sums[3, p] += r1 * with_b[0, p]
        sums[4, p] += r1 * (with_a[0, p] + along) + r2 * sums[5, p] * with_b[0, p]


@inlined
def _densities_of_pull(part, u, occupied, projected, factor, a, b):
    """What the derivatives of the functions are multiplied with: the rows a and b of a block.

    b = C C^T phi goes with the gradient of a function's derivative,
    a = C C^T (u . grad phi) + u_0 b with the derivative itself; both times the factor.
    """
    n_rows, n_points = part.shape[1], part.shape[2]
    for m in range(n_rows):
        for p in range(n_points):
            a[m, p] = u[1, p] * part[1, m, p] + u[2, p] * part[2, m, p] + u[3, p] * part[3, m, p]
    a[:] = np.dot(occupied, np.dot(factor * occupied.T, a))
    for m in range(n_rows):
        for p in range(n_points):
            b[m, p] = factor * projected[m, p]
            a[m, p] += u[0, p] * b[m, p]


@inlined
def _block_gradient(basis, points, present, owners, u, a, b, gradient):
    """Add one block's part of the gradient (n_atoms, 3); points move with their owners.

    u (n_densities, 5, n_points), a and b (n_densities, n_rows, n_points).
    """
    n_points, n_densities = points.shape[1], len(u)
    pull = np.zeros((3, n_points))
    parts = room_for_parts(basis, n_points, 2, 10)
    sums = np.empty((n_densities, _N_SUMS, n_points))
    with_a, with_b = np.empty((4, n_points)), np.empty((10, n_points))
    forms = np.empty((2, 6, n_points))
    atom, known, row = -1, -1, 0
    for shell in range(len(basis.shells)):
        if not present[shell]:
            continue
        if basis.shells[shell, 0] != atom:
            for i in range(n_densities):
                if atom >= 0:
                    _end_atom(parts.d, u[i], sums[i], pull, gradient[atom])
            atom, known = basis.shells[shell, 0], -1
            distances(points, basis.centres[atom], parts.d, parts.squares)
            for i in range(n_densities):
                _begin_atom(parts.d, u[i], sums[i])
        degree = basis.shells[shell, 1]
        known = evaluate_shell(basis, shell, known, 3, parts)
        rows = slice(row, row + 2 * degree + 1)
        transform, harmonics = basis.transforms[degree], parts.harmonics[degree]
        for i in range(n_densities):
            if degree == 0:
                _add_s_shell(transform[0, 0], parts.radial, a[i, row], b[i, row], sums[i])
            elif degree == 1:
                _add_p_shell(
                    transform, parts.d, parts.radial, a[i, rows], b[i, rows], u[i], sums[i]
                )
            elif degree == 2:
                _add_d_shell(
                    transform, parts.d, parts.radial, a[i, rows], b[i, rows], u[i], forms, sums[i]
                )
            else:
                _add_shell(
                    harmonics, parts.radial, a[i, rows], b[i, rows], u[i], with_a, with_b, sums[i]
                )
        row += 2 * degree + 1
    for i in range(n_densities):
        if atom >= 0:
            _end_atom(parts.d, u[i], sums[i], pull, gradient[atom])
    for p in range(n_points):
        for x in range(3):
            gradient[owners[p], x] += 4.0 * pull[x, p]


@kernel
def add_gradient(
    basis, blocks, first, last, values, owners, potentials, occupied, projected, factors, gradient
):
    """Add a range's part of the energy's gradient, by the atoms that carry functions and points.

    Second derivatives of the basis functions are needed, but only their contraction is formed. The
    gradients of several densities, each with its own potential, add up.

    Args:
        basis: the basis.
        blocks: blocks of grid points.
        first: first block.
        last: the block behind the last one.
        values: from `basis_values`.
        owners: (n_blocks, n_points) atoms that the points belong to.
        potentials: (n_densities, 4 or more, n_points of the range), each as in `add_potential`.
        occupied: (n_densities, n_basis, n_occupied).
        projected: (n_densities, n), each from `project`.
        factors: (n_densities,) of the gradients in the sum.
        gradient: (n_atoms, 3), hartree/bohr, added to.
    """
    n_points, n_densities = blocks.points.shape[2], len(factors)
    for block in range(first, last):
        part, rows = part_of(values, blocks, first, block), rows_of(blocks, block)
        start = (block - first) * n_points
        u = potentials[:, :, start : start + n_points].copy()
        a = np.empty((n_densities, len(rows), n_points))
        b = np.empty((n_densities, len(rows), n_points))
        for i in range(n_densities):
            along = projected_part(projected[i], blocks, first, block)
            _densities_of_pull(part, u[i], occupied[i][rows], along, factors[i], a[i], b[i])
        present = blocks.present[block]
        _block_gradient(basis, blocks.points[block], present, owners[block], u, a, b, gradient)
