"""Compiled inner loops of the grid work: basis functions, density and potential.

Points come in blocks of `BLOCK_POINTS`, short enough for the processor's cache and close together,
so that many basis functions vanish on a block: only the `rows` that don't are evaluated. All
kernels release the interpreter's lock, so that ranges of blocks may be handed to threads.
"""

from typing import NamedTuple

import numpy as np
from numba import njit

from pipelines.engines.dft.kernels.compiling import inlined, kernel
from pipelines.engines.dft.kernels.gaussians import (
    distances,
    exp_of_minus,
    harmonics_of,
    powers_of,
    radial_of,
)

BLOCK_POINTS = 256


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
def room_for_parts(basis, n_points, n_derivatives, n_components):
    l_max = basis.transforms.shape[0] - 1
    return _ShellParts(
        np.empty((3, n_points)),
        np.empty(n_points),
        np.empty((3, l_max + 1, n_points)),
        np.empty((l_max + 1, n_components, 2 * l_max + 1, n_points)),
        np.empty((n_derivatives + 1, n_points)),
    )


@inlined
def evaluate_shell(basis, shell, known, lowest, parts):
    """Fill the parts of one shell of an atom, whose distances are there.

    Args:
        basis: the basis.
        shell: index of the shell.
        known: highest degree of the harmonics that are known for its atom; -1 at first.
        lowest: degree below which harmonics aren't needed.
        parts: result.

    Returns:
        known of this shell.
    """
    own = slice(basis.shells[shell, 2], basis.shells[shell, 3])
    n_derivatives, n_components = parts.radial.shape[0] - 1, parts.harmonics.shape[1]
    radial_of(
        parts.squares, basis.exponents[own], basis.coefficients[own], n_derivatives, parts.radial
    )
    degree = basis.shells[shell, 1]
    if known < lowest <= degree:
        powers_of(parts.d, parts.powers.shape[1] - 1, parts.powers)
        known = lowest - 1
    while known < degree:
        known += 1
        harmonics_of(
            parts.powers, basis.transforms[known], known, n_components, parts.harmonics[known]
        )
    return known


@kernel
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


@inlined
def _block_values(basis, points, present, values):
    """Functions with first derivatives on one block into values (4, n_rows, n_points)."""
    n_points = points.shape[1]
    parts = room_for_parts(basis, n_points, 1, 4)
    d, radial, harmonics = parts.d, parts.radial, parts.harmonics
    slope = np.empty(n_points)
    atom, known, row = -1, -1, 0
    for shell in range(len(basis.shells)):
        if not present[shell]:
            continue
        if basis.shells[shell, 0] != atom:
            atom, known = basis.shells[shell, 0], -1
            distances(points, basis.centres[atom], d, parts.squares)
        known = evaluate_shell(basis, shell, known, 0, parts)
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
def part_of(values, blocks, first, block):
    """A block's view (4, n_rows, n_points) into the flat values of the range from `first` on."""
    n_points = blocks.points.shape[2]
    start = 4 * n_points * (blocks.row_starts[block] - blocks.row_starts[first])
    n_rows = blocks.row_starts[block + 1] - blocks.row_starts[block]
    return values[start : start + 4 * n_points * n_rows].reshape((4, n_rows, n_points))


@njit(cache=True, nogil=True)
def rows_of(blocks, block):
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
        part = part_of(values, blocks, first, block)
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
        functions = part_of(values, blocks, first, block)[0]
        here = occupied[rows_of(blocks, block)]
        out = projected_part(projected, blocks, first, block)
        out[:] = np.dot(here, np.dot(here.T.copy(), functions))


@njit(cache=True, nogil=True)
def projected_part(projected, blocks, first, block):
    """A block's view (n_rows, n_points) into the flat result of `project` from `first` on."""
    n_points = blocks.points.shape[2]
    start = n_points * (blocks.row_starts[block] - blocks.row_starts[first])
    n_rows = blocks.row_starts[block + 1] - blocks.row_starts[block]
    return projected[start : start + n_points * n_rows].reshape((n_rows, n_points))


@kernel
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
        part = part_of(values, blocks, first, block)
        along = projected_part(projected, blocks, first, block)
        start = (block - first) * n_points
        for x in range(4):
            out = rho[x, start : start + n_points]
            out[:] = 0.0
            factor = 2.0 if x == 0 else 4.0
            for m in range(part.shape[1]):
                row, weights = part[x, m], along[m]
                for p in range(n_points):
                    out[p] += factor * row[p] * weights[p]


@kernel
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
        part, rows = part_of(values, blocks, first, block), rows_of(blocks, block)
        start = (block - first) * n_points
        u = potential[:, start : start + n_points].copy()  # Known to lie densely, it vectorises.
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
