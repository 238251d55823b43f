"""The compiled loops against PySCF's own numbers, for the same functions, grid and density."""

import numpy as np
import pytest
from pyscf import dft, gto, scf
from pyscf.df.grad.rks import Gradients as FittedGradients
from pyscf.grad import rhf
from pyscf.grad import rks as rks_gradient

from pipelines.engines.dft.coulomb import FittedCoulomb
from pipelines.engines.dft.exchange_correlation import GradientTerm, GridFunctional
from pipelines.engines.dft.grids import OrderedGrid, grid_order
from pipelines.engines.dft.kernels import grid_kernels as kernels
from pipelines.engines.dft.kernels.basis import gaussian_basis
from pipelines.engines.dft.kernels.gaussians import exp_of_minus
from pipelines.engines.dft.kernels.pbe import logarithm, pbe

GEOMETRY = (
    "C 0 0 0.1; Cl 0.3 1.7 0; H 1 -0.4 0.1; H -0.7 -0.3 0.8; O -0.5 -0.3 -1.2; H -0.4 -1.2 -1.4"
)


@pytest.fixture(params=["def2-SVP", "def2-TZVP"], scope="module")
def molecule(request):
    """Chloromethanol; def2-TZVP brings f functions."""
    return gto.M(atom=GEOMETRY, basis=request.param, verbose=0)


def _grids(molecule):
    made = dft.Grids(molecule)
    made.level = 0
    return made


@pytest.fixture(scope="module")
def grid(molecule):
    return OrderedGrid(_grids(molecule)).points(molecule.atom_coords())


@pytest.fixture(scope="module")
def occupied(molecule):
    """Orthonormal orbitals of no particular meaning."""
    random = np.random.default_rng(3).normal(size=(molecule.nao, molecule.nelectron // 2))
    values, vectors = np.linalg.eigh(molecule.intor("int1e_ovlp"))
    return (vectors / np.sqrt(values)) @ vectors.T @ np.linalg.qr(random)[0]


def _functional(molecule, grid, threads=1):
    functional = GridFunctional(molecule, "PBE", threads)
    functional.move(*grid)
    return functional


def test_the_exponential_function_is_numpys():
    x = np.linspace(0.0, 60.0, 2001)
    ours = np.array([exp_of_minus(value) for value in x])
    assert np.abs(ours / np.exp(-x) - 1.0).max() < 1e-13


def test_basis_functions_are_pyscfs(molecule, grid):
    blocks = _functional(molecule, grid)._blocks
    n_blocks, n = len(blocks.points), kernels.BLOCK_POINTS
    values = np.empty(4 * n * len(blocks.rows))
    kernels.basis_values(gaussian_basis(molecule), blocks, 0, n_blocks, values)
    n_left_out = 0
    for block in range(n_blocks):
        points = blocks.points[block].T
        theirs = dft.numint.eval_ao(molecule, points, deriv=1).transpose(0, 2, 1)
        starts = blocks.row_starts[block : block + 2]
        rows = blocks.rows[starts[0] : starts[1]]
        ours = values[4 * n * starts[0] : 4 * n * starts[1]].reshape(4, len(rows), n)
        assert np.abs(ours - theirs[:, rows]).max(initial=0.0) < 1e-10
        n_left_out += molecule.nao - len(rows)
    assert n_left_out > 0  # and nothing that matters, as the energy and the potential show


def test_points_and_weights_are_pyscfs(molecule, grid):
    coordinates, weights, owners = grid
    made = _grids(molecule).build(sort_grids=False)
    order = grid_order(molecule, made.coords)
    assert np.array_equal(np.sort(order), np.arange(len(made.weights)))
    assert np.array_equal(coordinates, made.coords[order])
    assert np.array_equal(owners, made.atm_idx[order])
    assert np.abs(weights - made.weights[order]).max() < 1e-9
    assert weights.max() > 1.0


def test_energy_and_potential_are_pyscfs(molecule, grid, occupied):
    energy, matrix, *_ = _functional(molecule, grid).fock(occupied)
    mean_field = dft.RKS(molecule, xc="PBE")
    mean_field.grids.coords, mean_field.grids.weights = grid[:2]
    density = 2.0 * occupied @ occupied.T
    library = dft.numint.NumInt()
    _, expected_energy, expected = library.nr_rks(molecule, mean_field.grids, "PBE", density)
    assert energy == pytest.approx(expected_energy, abs=1e-7)
    assert np.abs(matrix - expected).max() < 1e-7


def test_gradient_is_pyscfs_with_the_response_of_the_grid(molecule, grid, occupied):
    functional = _functional(molecule, grid)
    density = 2.0 * occupied @ occupied.T
    response, potential = rks_gradient.get_vxc_full_response(
        dft.numint.NumInt(), molecule, _grids(molecule), "PBE", density
    )
    pulls = 2.0 * np.einsum("xij,ij->xi", potential, density)
    ranges = molecule.aoslice_by_atom()[:, 2:]
    expected = response + [pulls[:, i:j].sum(axis=1) for i, j in ranges]
    *_, gradient = functional.fock(occupied, with_gradient=True)
    assert np.abs(response).max() > 1e-3
    assert np.abs(gradient - expected).max() < 1e-7
    assert np.abs(gradient.sum(axis=0)).max() < 1e-12


def test_gradients_of_several_densities_add_up(molecule, grid, occupied):
    functional = _functional(molecule, grid)
    other = np.roll(occupied, 1, axis=0)
    *_, potential, gradient = functional.fock(occupied, with_gradient=True)
    *_, other_potential, other_gradient = functional.fock(other, with_gradient=True)
    one, two = GradientTerm(occupied, potential), GradientTerm(other, other_potential, -0.5)
    assert np.allclose(functional.gradient(one), gradient, rtol=0, atol=1e-12)
    expected = gradient - 0.5 * other_gradient
    assert np.allclose(functional.gradient(one, two), expected, rtol=0, atol=1e-11)


def test_threads_change_no_bit(molecule, grid, occupied):
    one, two = (_functional(molecule, grid, threads) for threads in (1, 2))
    results = [functional.fock(occupied, with_gradient=True) for functional in (one, two)]
    for of_one, of_two in zip(*results, strict=True):
        assert np.array_equal(of_one, of_two)
    gradients = [
        functional.gradient(GradientTerm(occupied, result[2]))
        for functional, result in zip((one, two), results, strict=True)
    ]
    assert np.array_equal(*gradients)


def attraction_gradient(molecule, density):
    """That of the electrons' attraction by the nuclei, by PySCF."""
    derivative = rhf.Gradients(scf.RHF(molecule)).hcore_generator(molecule)
    kinetic = -molecule.intor("int1e_ipkin")
    gradient = []
    for atom, (start, stop) in enumerate(molecule.aoslice_by_atom()[:, 2:]):
        of_kinetic = 2.0 * np.einsum("xij,ij->x", kinetic[:, start:stop], density[start:stop])
        gradient.append(np.einsum("xij,ij->x", derivative(atom), density) - of_kinetic)
    return np.array(gradient)


@pytest.mark.parametrize("memory", [1e9, 0.0], ids=["kept", "anew"])
def test_fitted_coulomb_energy_is_pyscfs(molecule, occupied, memory):
    density = 2.0 * occupied @ occupied.T
    fit = FittedCoulomb(molecule, "def2-universal-jkfit", memory)
    fit.move()
    mean_field = dft.RKS(molecule, xc="PBE").density_fit(
        auxbasis="def2-universal-jkfit", only_dfj=True
    )
    expected = mean_field.get_j(molecule, density)
    assert np.abs(fit.matrix(density) - expected).max() < 1e-9
    potential = FittedGradients(mean_field).get_j(molecule, density)
    pulls = 2.0 * np.einsum("xij,ij->xi", np.asarray(potential), density)
    ranges = molecule.aoslice_by_atom()[:, 2:]
    by_atom = np.array([pulls[:, i:j].sum(axis=1) for i, j in ranges])
    by_atom += potential.aux.sum((0, 1)) + attraction_gradient(molecule, density)
    assert np.abs(fit.gradient(density) - by_atom).max() < 1e-8


def test_fitted_coulomb_gradient_follows_a_moved_molecule(occupied, molecule):
    """Central differences of the fitted energy at a fixed density matrix."""
    density = 2.0 * occupied @ occupied.T
    moved = molecule.copy()
    fit = FittedCoulomb(moved, "def2-universal-jkfit", 1e9)

    def energy(shift: float) -> float:
        positions = molecule.atom_coords()
        positions[1, 2] += shift
        moved.set_geom_(positions, unit="Bohr")
        fit.move()
        attraction = float(np.vdot(moved.intor("int1e_nuc"), density))
        return 0.5 * float(np.vdot(fit.matrix(density), density)) + attraction

    slope = (energy(1e-3) - energy(-1e-3)) / 2e-3
    energy(0.0)
    assert fit.gradient(density)[1, 2] == pytest.approx(slope, abs=1e-4)
    fresh = FittedCoulomb(molecule, "def2-universal-jkfit", 1e9)
    fresh.move()
    assert np.array_equal(fit.matrix(density), fresh.matrix(density))


def test_pbe_is_libxcs():
    """Over densities from a core's to a tail's, and from smooth to steep ones."""
    rng = np.random.default_rng(5)
    n = 2048
    rho = np.empty((4, n))
    rho[0] = np.exp(rng.uniform(-18.0, 7.0, n))  # libxc cuts off slopes of thinner tails.
    rho[1:] = rho[0] ** (4 / 3) * np.exp(rng.uniform(-8.0, 3.0, n)) * rng.normal(size=(3, n))
    weights = rng.uniform(0.1, 1.0, n)
    energy, derivatives = dft.numint.NumInt().eval_xc("PBE", rho, spin=0, deriv=1)[:2]
    found = np.empty((5, n))
    pbe(rho, weights, found)
    assert found[0] == pytest.approx(weights * derivatives[0], rel=1e-10)
    assert found[4] == pytest.approx(weights * rho[0] * energy, rel=1e-10)
    # Where the derivatives of exchange and correlation cancel, less is left of both.
    by_square = np.abs(2.0 * weights * derivatives[1] * rho[1:])
    allowed = 1e-9 * by_square + 1e-12 * weights * np.abs(rho[1:]) * rho[0] ** (-4 / 3)
    assert np.all(np.abs(found[1:4] - 2.0 * weights * derivatives[1] * rho[1:]) < allowed)


def test_points_without_density_have_no_energy():
    rho, weights, found = np.zeros((4, 256)), np.ones(256), np.empty((5, 256))
    rho[0, ::2] = 1e-20
    pbe(rho, weights, found)
    assert np.array_equal(found, np.zeros((5, 256)))


def test_logarithm_is_numpys():
    x = np.exp(np.random.default_rng(6).uniform(-300.0, 300.0, 256))
    x[:2] = 1.0, np.nextafter(1.0, 2.0)
    found = np.empty(256)
    logarithm(x, found)
    assert np.abs(found - np.log(x)).max() < 1e-13
    assert found[:2] == pytest.approx(np.log(x[:2]), rel=1e-10, abs=0.0)
