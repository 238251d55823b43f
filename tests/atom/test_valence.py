"""Stiffness of the valence terms: written out, against derivatives of the energy."""

import pytest
import torch

from atom.valence.derivatives import derivatives_of
from atom.valence.stiffness import Geometry, Layout
from atom.valence.terms import (
    ATOMS_OF,
    Coordinates,
    Parameters,
    coordinates_of,
    differentiable_forces,
    energy,
    energy_and_forces,
)
from atom.valence.topology import join
from tests.benchmarks.models.test_valence import FEW, molecule, some_parameters, topology


def displaced(name, seed=0):
    positions, _ = molecule(name)
    noise = torch.randn(positions.shape, generator=torch.Generator().manual_seed(seed))
    return positions + 0.05 * noise


@pytest.mark.parametrize("name", [*FEW, "1-butanol"])
def test_gradient_and_hessian_are_those_of_the_energy(name):
    terms, x = topology(name), displaced(name)
    parameters = some_parameters(terms)
    gradient, hessian = Geometry.of(x, Layout(terms)).stiffness(parameters)
    _, forces = energy_and_forces(x, terms, parameters)
    assert torch.allclose(gradient[0], -forces.flatten(), atol=1e-9)
    expected = torch.autograd.functional.hessian(
        lambda flat: energy(flat.view(-1, 3), terms, parameters).sum(), x.flatten()
    )
    assert torch.allclose(hessian[0], expected, atol=1e-8)


@pytest.mark.parametrize("name", [*FEW, "1-butanol"])
def test_forces_that_are_learnt_from_are_those_of_the_energy(name):
    """Their gradient by the parameters too: against the second derivative of the energy."""
    terms, x = topology(name), displaced(name)
    own = Parameters(*(p.requires_grad_() for p in some_parameters(terms)))
    weights = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=x.dtype)
    forces = differentiable_forces(x, terms, own)
    assert torch.allclose(forces, energy_and_forces(x, terms, own)[1], atol=1e-9)
    found = torch.autograd.grad((weights * forces).sum(), own, allow_unused=True)
    y = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(energy(y, terms, own).sum(), y, create_graph=True)
    expected = torch.autograd.grad(-(weights * slope).sum(), own, allow_unused=True)
    for mine, theirs in zip(found, expected, strict=True):
        if mine is None or theirs is None:
            assert mine is theirs is None or not (theirs if mine is None else mine).any()
        else:
            assert torch.allclose(mine, theirs, atol=1e-9)


@pytest.mark.parametrize("kind", Coordinates._fields)
def test_derivatives_of_coordinates_are_those_of_autograd(kind):
    name = "furan" if kind == "heights" else "1-butanol"
    terms, x = topology(name), displaced(name)
    atoms = getattr(terms, ATOMS_OF[kind])
    slopes, curvatures = derivatives_of(kind, x[atoms])
    for row, own in enumerate(atoms[:12].tolist()):

        def value(flat, row=row, own=own):
            moved = x.index_put((torch.tensor(own),), flat.view(-1, 3))
            return getattr(coordinates_of(moved, terms), kind)[row]

        flat = x[own].flatten()
        slope = torch.autograd.functional.jacobian(value, flat)
        curvature = torch.autograd.functional.hessian(value, flat)
        assert torch.allclose(slopes[row], slope, atol=1e-11)
        assert torch.allclose(curvatures[row], curvature, atol=1e-10)


def test_the_stiffness_of_joined_molecules_is_that_of_each_padded():
    each = [topology(name) for name in FEW]
    parameters = some_parameters(join(each))
    layout = Layout(join(each))
    x = torch.cat([displaced(name) for name in FEW])
    gradient, hessian = Geometry.of(x, layout).stiffness(parameters)
    assert torch.allclose(layout.unpad(layout.pad(x)), x)
    first = 0
    for row, terms in enumerate(each):
        n = 3 * len(terms.numbers)
        alone = energy_and_forces(x, join(each), parameters)[1][first : first + n // 3]
        first += n // 3
        assert torch.allclose(gradient[row, :n], -alone.flatten(), atol=1e-9)
        for empty in (gradient[row, n:], hessian[row, n:], hessian[row, :, n:]):
            assert not empty.any()


def test_the_hessian_can_be_differentiated_by_the_parameters():
    """Against finite differences of the stretch constant, rest length and a torsion."""
    terms, x = topology("methanol"), displaced("methanol")
    parameters = some_parameters(terms)
    geometry = Geometry.of(x, Layout(terms))
    weight = torch.randn(18, 18, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def value(p):
        gradient, hessian = geometry.stiffness(p)
        return (weight * hessian[0]).sum() + gradient[0] @ weight[0]

    for name, column in (("bond", 0), ("bond", 1), ("angle", 1), ("torsion", 2), ("pair", 5)):
        given = getattr(parameters, name).clone().requires_grad_(True)
        if not len(given):
            continue
        (slope,) = torch.autograd.grad(value(parameters._replace(**{name: given})), given)
        shift = torch.zeros_like(given)
        shift[0, column] = 1e-5
        up, down = (
            value(parameters._replace(**{name: (given + s).detach()})) for s in (shift, -shift)
        )
        assert float(slope[0, column]) == pytest.approx(
            (float(up.detach()) - float(down.detach())) / 2e-5, rel=1e-5
        )
