"""Compiled inner loops of the grid work: basis functions, density, potential and gradient.

Points come in blocks of `BLOCK_POINTS`, short enough for the processor's cache and close together,
so that many basis functions vanish on a block: only the `rows` that don't are evaluated. All
kernels release the interpreter's lock, so that ranges of blocks may be handed to threads.
"""

from typing import NamedTuple

import numpy as np
from numba import njit

from pipelines.engines.dft.kernels.gaussians import (
    FAST,
    distances,
    exp_of_minus,
    harmonics_of,
    powers_of,
    radial_of,
)

BLOCK_POINTS = 256
# Components that don't vanish for harmonics of degree 0, 1, 2 and more.
_N_COMPONENTS = np.array([1, 4, 10])


class Blocks(NamedTuple):
    """Points in blocks, and which shells and functions matter on each.

    Attributes:
        points: (n_blocks, 3, BLOCK_POINTS), bohr.
        present: (n_blocks, n_shells) whether a shell reaches the block.
        row_starts: (n_blocks + 1,) where a block's functions begin in `rows`.
        rows: the functions of all blocks, one after another.
    """

    points: np.ndarray
    present: np.ndarray
    row_starts: np.ndarray
    rows: np.ndarray


class _ShellParts(NamedTuple):
    """What a shell's functions are made of on a block.

    Attributes:
        d: (3, n_points) from the atom.
        squares: (n_points,) of the distances.
        powers: (3, l_max + 1, n_points) of d.
        harmonics: (l_max + 1, n_components, 2 l_max + 1, n_points) value and derivatives.
        radial: (n_derivatives + 1, n_points) R and its derivatives by the square.
    """

    d: np.ndarray
    squares: np.ndarray
    powers: np.ndarray
    harmonics: np.ndarray
    radial: np.ndarray


@njit(cache=True, nogil=True)
def _room_for_parts(basis, n_points, n_derivatives, n_components):
    l_max = basis.transforms.shape[0] - 1
    return _ShellParts(
        np.empty((3, n_points)),
        np.empty(n_points),
        np.empty((3, l_max + 1, n_points)),
        np.empty((l_max + 1, n_components, 2 * l_max + 1, n_points)),
        np.empty((n_derivatives + 1, n_points)),
    )


@njit(cache=True, nogil=True, fastmath=FAST)
def _evaluate_shell(basis, points, shell, atom, known, parts):
    """Fill the parts of one shell of a walk over all of them.

    Args:
        basis: the basis.
        points: (3, n_points) bohr.
        shell: index of the shell.
        atom: atom of the shell before it; -1 at the start.
        known: highest degree of the harmonics that are known for that atom; -1 at the start.
        parts: result.

    Returns:
        atom, known of this shell.
    """
    if basis.shells[shell, 0] != atom:
        atom, known = basis.shells[shell, 0], -1
        distances(points, basis.centres[atom], parts.d, parts.squares)
        powers_of(parts.d, parts.powers.shape[1] - 1, parts.powers)
    own = slice(basis.shells[shell, 2], basis.shells[shell, 3])
    n_derivatives, n_components = parts.radial.shape[0] - 1, parts.harmonics.shape[1]
    radial_of(
        parts.squares, basis.exponents[own], basis.coefficients[own], n_derivatives, parts.radial
    )
    while known < basis.shells[shell, 1]:
        known += 1
        harmonics_of(
            parts.powers, basis.transforms[known], known, n_components, parts.harmonics[known]
        )
    return atom, known


@njit(cache=True, nogil=True, fastmath=FAST)
def orbital_sizes(centres, charges, points, sizes):
    """About the largest value of occupied orbitals at each point, bohr^-3/2.

    The larger of the shapes of a 1s and of a valence orbital on the nearest atom.

    Args:
        centres: (n_atoms, 3), bohr.
        charges: (n_atoms,), of the nuclei.
        points: (n_points, 3), bohr.
        sizes: result, (n_points,).
    """
    n = 512
    squares, nearest, charge = np.empty(n), np.empty(n), np.empty(n)
    for start in range(0, len(points), n):
        here = points[start : start + n].T.copy()
        n_here = here.shape[1]
        nearest[:] = 1e300
        for atom in range(len(centres)):
            x, y, z = centres[atom]
            for p in range(n_here):
                dx, dy, dz = here[0, p] - x, here[1, p] - y, here[2, p] - z
                squares[p] = dx * dx + dy * dy + dz * dz
            for p in range(n_here):
                closer = squares[p] < nearest[p]
                charge[p] = charges[atom] if closer else charge[p]
                nearest[p] = squares[p] if closer else nearest[p]
        for p in range(n_here):
            r = np.sqrt(nearest[p])
            core = charge[p] * np.sqrt(charge[p]) * exp_of_minus(min(charge[p] * r, 60.0))
            sizes[start + p] = max(core, exp_of_minus(min(0.75 * r, 60.0)))


@njit(cache=True, nogil=True)
def find_present(basis, points, levels, present):
    """Which shells matter on which block: fills present (n_blocks, n_shells).

    Args:
        basis: the basis.
        points: (n_blocks, 3, n_points), bohr.
        levels: (n_blocks, n_points) columns of the reaches that count at each point.
        present: result, (n_blocks, n_shells).
    """
    n_points = points.shape[2]
    squares = np.empty(n_points)
    for block in range(len(points)):
        atom = -1
        for shell in range(len(basis.shells)):
            if basis.shells[shell, 0] != atom:
                atom = basis.shells[shell, 0]
                x, y, z = basis.centres[atom]
                for p in range(n_points):
                    dx, dy, dz = (
                        points[block, 0, p] - x, points[block, 1, p] - y, points[block, 2, p] - z
                    )  # fmt: skip
                    squares[p] = dx * dx + dy * dy + dz * dz
            present[block, shell] = False
            for p in range(n_points):
                if squares[p] < basis.reaches[shell, levels[block, p]] ** 2:
                    present[block, shell] = True
                    break


@njit(cache=True, nogil=True, fastmath=FAST)
def _block_values(basis, points, present, values):
    """Functions with first derivatives on one block into values (4, n_rows, n_points)."""
    n_points = points.shape[1]
    parts = _room_for_parts(basis, n_points, 1, 4)
    d, radial, harmonics = parts.d, parts.radial, parts.harmonics
    slope = np.empty(n_points)
    atom, known, row = -1, -1, 0
    for shell in range(len(basis.shells)):
        if not present[shell]:
            continue
        atom, known = _evaluate_shell(basis, points, shell, atom, known, parts)
        degree = basis.shells[shell, 1]
        for m in range(2 * degree + 1):
            s, sx, sy, sz = (
                harmonics[degree, 0, m], harmonics[degree, 1, m],
                harmonics[degree, 2, m], harmonics[degree, 3, m],
            )  # fmt: skip
            v, vx, vy, vz = values[0, row], values[1, row], values[2, row], values[3, row]
            # One loop a result: with several, the compiler can't prove them apart and vectorise.
            for p in range(n_points):
                v[p] = s[p] * radial[0, p]
            for p in range(n_points):
                slope[p] = 2.0 * s[p] * radial[1, p]
            for p in range(n_points):
                vx[p] = sx[p] * radial[0, p] + d[0, p] * slope[p]
            for p in range(n_points):
                vy[p] = sy[p] * radial[0, p] + d[1, p] * slope[p]
            for p in range(n_points):
                vz[p] = sz[p] * radial[0, p] + d[2, p] * slope[p]
            row += 1


@njit(cache=True, nogil=True)
def _part(values, blocks, first, block):
    """A block's view (4, n_rows, n_points) into the flat values of the range from `first` on."""
    n_points = blocks.points.shape[2]
    start = 4 * n_points * (blocks.row_starts[block] - blocks.row_starts[first])
    n_rows = blocks.row_starts[block + 1] - blocks.row_starts[block]
    return values[start : start + 4 * n_points * n_rows].reshape((4, n_rows, n_points))


@njit(cache=True, nogil=True)
def _rows(blocks, block):
    return blocks.rows[blocks.row_starts[block] : blocks.row_starts[block + 1]]


@njit(cache=True, nogil=True)
def basis_values(basis, blocks, first, last, values):
    """Basis functions with first derivatives on the blocks first ... last - 1.

    Args:
        basis: the basis.
        blocks: blocks of grid points.
        first: first block.
        last: the block behind the last one.
        values: result, flat; for each block (4, n_rows, BLOCK_POINTS), value and derivatives.
    """
    for block in range(first, last):
        part = _part(values, blocks, first, block)
        _block_values(basis, blocks.points[block], blocks.present[block], part)


@njit(cache=True, nogil=True)
def project(blocks, first, last, values, occupied, projected):
    """C C^T phi of occupied orbitals C on the blocks first ... last - 1.

    Args:
        blocks: blocks of grid points.
        first: first block.
        last: the block behind the last one.
        values: from `basis_values`.
        occupied: (n_basis, n_occupied).
        projected: result, flat; for each block (n_rows, BLOCK_POINTS).
    """
    for block in range(first, last):
        functions = _part(values, blocks, first, block)[0]
        here = occupied[_rows(blocks, block)]
        out = _projected_part(projected, blocks, first, block)
        out[:] = np.dot(here, np.dot(here.T.copy(), functions))


@njit(cache=True, nogil=True)
def _projected_part(projected, blocks, first, block):
    """A block's view (n_rows, n_points) into the flat result of `project` from `first` on."""
    n_points = blocks.points.shape[2]
    start = n_points * (blocks.row_starts[block] - blocks.row_starts[first])
    n_rows = blocks.row_starts[block + 1] - blocks.row_starts[block]
    return projected[start : start + n_points * n_rows].reshape((n_rows, n_points))


@njit(cache=True, nogil=True, fastmath=FAST)
def density(blocks, first, last, values, projected, rho):
    """Density of doubly occupied orbitals and its gradient on a range of blocks.

    Args:
        blocks: blocks of grid points.
        first: first block.
        last: the block behind the last one.
        values: from `basis_values`.
        projected: from `project`.
        rho: result, (4, n_points of the range), bohr^-3 and bohr^-4.
    """
    n_points = blocks.points.shape[2]
    for block in range(first, last):
        part = _part(values, blocks, first, block)
        along = _projected_part(projected, blocks, first, block)
        start = (block - first) * n_points
        for x in range(4):
            out = rho[x, start : start + n_points]
            out[:] = 0.0
            factor = 2.0 if x == 0 else 4.0
            for m in range(part.shape[1]):
                row, weights = part[x, m], along[m]
                for p in range(n_points):
                    out[p] += factor * row[p] * weights[p]


@njit(cache=True, nogil=True, fastmath=FAST)
def add_potential(blocks, first, last, values, potential, matrix):
    """Add the half of the potential matrix of a range (the other half is its transpose).

    Args:
        blocks: blocks of grid points.
        first: first block.
        last: the block behind the last one.
        values: from `basis_values`.
        potential: (4, n_points of the range) weighted derivatives of the energy density with
            respect to the density and its gradient.
        matrix: (n_basis, n_basis), added to.
    """
    n_points = blocks.points.shape[2]
    for block in range(first, last):
        part, rows = _part(values, blocks, first, block), _rows(blocks, block)
        start = (block - first) * n_points
        u = potential[:, start : start + n_points]
        weighted = np.empty((len(rows), n_points))
        for m in range(len(rows)):
            out = weighted[m]
            for p in range(n_points):
                out[p] = 0.5 * u[0, p] * part[0, m, p] + u[1, p] * part[1, m, p]
            for p in range(n_points):
                out[p] += u[2, p] * part[2, m, p] + u[3, p] * part[3, m, p]
        product = np.dot(part[0], weighted.T)
        for i in range(len(rows)):
            for j in range(len(rows)):
                matrix[rows[i], rows[j]] += product[i, j]


@njit(cache=True, nogil=True, fastmath=FAST)
def _contract_with_harmonics(harmonics, rows, n_components, out):
    """sum_m S_m rows_m into out, by component; components from n_components on are zero."""
    n_points = rows.shape[1]
    out[n_components:] = 0.0
    for component in range(n_components):
        out[component] = 0.0
        for m in range(rows.shape[0]):
            for p in range(n_points):
                out[component, p] += harmonics[component, m, p] * rows[m, p]


@njit(cache=True, nogil=True, fastmath=FAST)
def _shell_pull(d, radial, a, b, potential, pull):
    """Integral of a shell's derivatives along x, y, z against a, and their gradients against b.

    Args:
        d: (3, n_points) from the atom.
        radial: (3, n_points) R, R', R''.
        a: (4, n_points) sums over the shell of S and its first derivatives with the rows of a.
        b: (10, n_points) the same with b, second derivatives too.
        potential: (4, n_points).
        pull: (3, n_points), the integrand added to.
    """
    x_sum, y_sum, z_sum = 0.0, 0.0, 0.0
    for p in range(d.shape[1]):
        r0, r1, r2 = radial[0, p], 2.0 * radial[1, p], 4.0 * radial[2, p]
        ux, uy, uz = potential[1, p], potential[2, p], potential[3, p]
        along = ux * d[0, p] + uy * d[1, p] + uz * d[2, p]
        steep = ux * b[1, p] + uy * b[2, p] + uz * b[3, p]
        common = r1 * (a[0, p] + steep) + r2 * along * b[0, p]
        bent_x = ux * b[4, p] + uy * b[5, p] + uz * b[6, p]
        bent_y = ux * b[5, p] + uy * b[7, p] + uz * b[8, p]
        bent_z = ux * b[6, p] + uy * b[8, p] + uz * b[9, p]
        x = r0 * (a[1, p] + bent_x) + r1 * (along * b[1, p] + ux * b[0, p]) + d[0, p] * common
        y = r0 * (a[2, p] + bent_y) + r1 * (along * b[2, p] + uy * b[0, p]) + d[1, p] * common
        z = r0 * (a[3, p] + bent_z) + r1 * (along * b[3, p] + uz * b[0, p]) + d[2, p] * common
        x_sum += x
        y_sum += y
        z_sum += z
        pull[0, p] += x
        pull[1, p] += y
        pull[2, p] += z
    return x_sum, y_sum, z_sum


@njit(cache=True, nogil=True, fastmath=FAST)
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


@njit(cache=True, nogil=True, fastmath=FAST)
def _block_gradient(basis, points, present, owners, u, a, b, gradient):
    """Add one block's part of the gradient (n_atoms, 3); points move with their owners.

    u (n_densities, 5, n_points), a and b (n_densities, n_rows, n_points).
    """
    n_points = points.shape[1]
    pull = np.zeros((3, n_points))
    parts = _room_for_parts(basis, n_points, 2, 10)
    d, radial, harmonics = parts.d, parts.radial, parts.harmonics
    with_a, with_b = np.empty((4, n_points)), np.empty((10, n_points))
    atom, known, row = -1, -1, 0
    for shell in range(len(basis.shells)):
        if not present[shell]:
            continue
        atom, known = _evaluate_shell(basis, points, shell, atom, known, parts)
        degree = basis.shells[shell, 1]
        rows = slice(row, row + 2 * degree + 1)
        row += 2 * degree + 1
        # Higher derivatives of a constant or linear harmonic vanish.
        n_components = _N_COMPONENTS[min(degree, 2)]
        for i in range(len(u)):
            _contract_with_harmonics(harmonics[degree], a[i, rows], min(n_components, 4), with_a)
            _contract_with_harmonics(harmonics[degree], b[i, rows], n_components, with_b)
            x, y, z = _shell_pull(d, radial, with_a, with_b, u[i], pull)
            gradient[atom, 0] -= 4.0 * x
            gradient[atom, 1] -= 4.0 * y
            gradient[atom, 2] -= 4.0 * z
    for p in range(n_points):
        for x in range(3):
            gradient[owners[p], x] += 4.0 * pull[x, p]


@njit(cache=True, nogil=True, fastmath=FAST)
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
        part, rows = _part(values, blocks, first, block), _rows(blocks, block)
        start = (block - first) * n_points
        u = potentials[:, :, start : start + n_points]
        a = np.empty((n_densities, len(rows), n_points))
        b = np.empty((n_densities, len(rows), n_points))
        for i in range(n_densities):
            along = _projected_part(projected[i], blocks, first, block)
            _densities_of_pull(part, u[i], occupied[i][rows], along, factors[i], a[i], b[i])
        present = blocks.present[block]
        _block_gradient(basis, blocks.points[block], present, owners[block], u, a, b, gradient)
