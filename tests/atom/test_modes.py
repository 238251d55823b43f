"""Motion by force constants: its derivatives, its physics, and what keeps it on the ground."""

import copy
import math
from functools import partial

import pytest
import torch

from atom import ATOM, ATOMConfig
from atom.elements import ATOMIC_MASSES
from atom.valence.batches import terms_of_each
from atom.valence.flow import Flow, spectral
from tests.benchmarks.models.test_valence import molecule

FEMTOSECOND = torch.tensor(1.0, dtype=torch.float64)
SMALL = {"n_blocks": 1, "width": 16, "n_heads": 2, "feedforward_width": 16, "modes_width": 16}


def stiffness(seed=0, size=7):
    """Two symmetric matrices; the second has threefold and twofold eigenvalues, and zeros."""
    generator = torch.Generator().manual_seed(seed)
    a = 0.02 * torch.randn(size, size, generator=generator, dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64)).Q
    values = torch.tensor([0.0, 0.0, 0.0, 0.01, 0.01, 0.3, 0.3], dtype=torch.float64)
    return torch.stack([a @ a.T - 1e-4 * torch.eye(size), turn @ torch.diag(values) @ turn.T])


def windows(size=7, count=5):
    generator = torch.Generator().manual_seed(1)
    v, *a = 0.02 * torch.randn(4, count, size, generator=generator, dtype=torch.float64)
    lags = 100 * torch.rand(count, 3, generator=generator, dtype=torch.float64)
    return v, torch.stack(a, dim=1) / 2, lags


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_flow_has_the_gradients_of_finite_differences():
    """Degenerate, zero and negative eigenvalues too, where a plain backward pass divides by 0."""
    v, a, lags = windows()
    owner = torch.tensor([0, 1, 1, 0, 1])
    spread = torch.tensor([1e-3, 1e-5], dtype=torch.float64)

    def flow(matrix, *others):
        return Flow.apply(
            (matrix + matrix.transpose(1, 2)) / 2, *others[:2], lags, others[2], owner
        )

    given = [x.clone().requires_grad_(True) for x in (stiffness(), v, a, spread)]
    assert torch.autograd.gradcheck(flow, given, eps=1e-7, atol=1e-3, rtol=1e-4)


def test_the_flow_solves_newtons_equation_and_leaves_with_the_given_velocity():
    """x'' = a - A x, by central differences, where no phase is lost; and x'(0) = v."""
    v, a, _ = windows()
    a = a[:, :1].expand(-1, 4, -1)
    # Nothing as soft as 40 cm-1.
    matrix = stiffness()[1:] + 0.01 * torch.eye(7, dtype=torch.float64)
    owner, none = torch.zeros(5, dtype=torch.long), torch.zeros(2, dtype=torch.float64)
    times = torch.tensor([49.9, 50.0, 50.1, 1e-4], dtype=torch.float64).expand(5, -1)
    x = Flow.apply(matrix, v, a, times, none, owner)
    bend = (x[:, 0] - 2 * x[:, 1] + x[:, 2]) / 0.01
    assert torch.allclose(bend, a[:, 1] - x[:, 1] @ matrix[0], atol=2e-5)
    assert torch.allclose(x[:, 3] / 1e-4, v, atol=1e-5)


def test_lost_phases_end_at_the_rest_structure():
    spread = torch.tensor([0.01, 0.0], dtype=torch.float64)
    found = spectral(torch.tensor(0.1, dtype=torch.float64), spread, 1e4 * FEMTOSECOND)
    assert float(found.g) == pytest.approx(0.0, abs=1e-12)
    assert float(found.h) == pytest.approx(1 / 0.1, rel=1e-3)


def test_a_negative_eigenvalue_does_not_run_away():
    spread = torch.zeros(2, dtype=torch.float64)
    for value in (-1e-2, -1e-4, 0.0):
        found = spectral(torch.tensor(value, dtype=torch.float64), spread, 1e3 * FEMTOSECOND)
        assert math.isfinite(float(found.g)) and abs(float(found.g)) < 1e4


def start(name="methanol", seed=0):
    """A thermal-sized start state of one molecule, at rest as a whole."""
    positions, numbers = molecule(name)
    generator = torch.Generator().manual_seed(seed)
    x = positions + 0.03 * torch.randn(positions.shape, generator=generator, dtype=torch.float64)
    v = 0.005 * torch.randn(positions.shape, generator=generator, dtype=torch.float64)
    masses = torch.tensor(ATOMIC_MASSES, dtype=torch.float64)[numbers][:, None]
    return x[None], (v - (masses * v).sum(0) / masses.sum())[None], numbers[None]


@pytest.fixture(scope="module", params=["modes", "steps"])
def model(request):
    torch.manual_seed(0)
    return ATOM(ATOMConfig(output=request.param, lag_gate_power=2, **SMALL)).eval()


def motion(model, x, v, z, lags, *, steps):
    """What a model's force constants make of start states."""
    with torch.no_grad():
        found = model.modes(x, v, z, lags, _graphs(x, z), model.lifting.embedding, steps=steps)
    return found - x[:, None]


def test_the_correction_starts_at_nothing_and_the_motion_with_the_velocity(model):
    x, v, z = start()
    with torch.no_grad():
        found = model(x, v, z, torch.tensor([[0.01, 0.0]]))
        assert torch.allclose((found[0, 0].double() - x[0]) / 0.01, v[0], atol=2e-4)
        assert torch.allclose(found[0, 1].double(), x[0], atol=1e-6)
        lags = torch.tensor([[60.0, 500.0]])
        plain = model(x, v, z, lags)
    moved = motion(model, x, v, z, lags, steps=model.config.output == "steps")
    assert torch.allclose(plain.double(), x[:, None] + moved, atol=1e-5)


def test_small_motion_is_the_same_in_steps_and_in_closed_form(model):
    """About a rest structure, where the potential is its Hessian; C-H 1.5 % too fast at 1 fs."""
    x, v, z = start()
    parameters_of = partial(model.modes.parameters_of, elements=model.lifting.embedding)
    with torch.no_grad():
        topology, parameters = terms_of_each(_graphs(x, z), parameters_of, x.device)
        lines, _ = model.modes.at_rest(topology, parameters, x[0])
    rest, lags = lines.structure, torch.tensor([[0.0, 0.5, 3.0, 7.5, 40.0]])
    plain, stepped = (motion(model, rest, v / 100, z, lags, steps=steps) for steps in (False, True))
    for lag, share in enumerate((0.0, 0.02, 0.02, 0.05, 0.3)):
        gap = float((stepped - plain)[0, lag].norm())
        assert gap <= share * float(plain[0, lag].norm()) + 1e-12


def test_phases_that_are_lost_end_at_the_rest_structure_also_in_steps(model):
    x, v, z = start()
    unsure = copy.deepcopy(model).eval()
    with torch.no_grad():
        unsure.modes.log_spread[1] = math.log(0.02) / 30
    lags = torch.tensor([[200.0, 400.0]])
    moved = [motion(unsure, x, v, z, lags, steps=steps) for steps in (True, False)]
    distances = [torch.cdist(*(2 * [x[0] + found[0, -1]])) for found in moved]
    assert torch.allclose(*distances, atol=1e-3)


def test_attention_corrects_steps_for_a_while_only(model):
    x, v, z = start()
    sure = copy.deepcopy(model).eval()
    with torch.no_grad():
        sure.correction.fill_(1.0)
        change = sure(x, v, z, lags := torch.tensor([[40.0, 700.0]])) - model(x, v, z, lags)
    sizes = change.flatten(2).norm(dim=2)[0].tolist()
    assert sizes[0] > 1e-4
    assert (sizes[1] < 1e-6) == (model.config.output == "steps")


def test_training_mode_moves_in_closed_form_which_has_gradients(model):
    x, v, z = start()
    lags = torch.tensor([[60.0, 500.0]])
    twin = copy.deepcopy(model).train()
    twin.modes.graph.dropout.p = 0.0
    found = twin(x, v, z, lags)
    assert torch.allclose(
        found.double(), x[:, None] + motion(model, x, v, z, lags, steps=False), atol=1e-5
    )
    found.square().sum().backward()
    assert float(twin.modes.terms.bond[0].weight.grad.norm()) > 0


def _graphs(x, z):
    from atom.valence.topology import topologies_of

    return topologies_of(x, z)


def test_a_window_that_would_fly_off_goes_to_its_rest_structure(model):
    x, v, z = start()
    with torch.no_grad():
        found = model(x, 400 * v, z, torch.tensor([[5.0, 100.0, 900.0]]))
    heavy = z[0] > 1
    assert float((found[0, 1:, heavy].double() - x[0, heavy]).norm(dim=-1).max()) < 2.0


def test_a_molecule_that_flies_apart_leaves_those_beside_it_alone():
    torch.manual_seed(0)
    model = ATOM(ATOMConfig(output="steps", lag_gate_power=2, **SMALL)).eval()
    x, v, z = start()
    lags = torch.tensor([[5.0, 100.0, 900.0]])
    with torch.no_grad():
        alone = model(x, v, z, lags)
        beside = model(
            x.repeat(2, 1, 1), torch.cat([v, 1e4 * v]), z.repeat(2, 1), lags.repeat(2, 1)
        )
    assert bool(beside.isfinite().all()) and torch.allclose(beside[:1], alone, atol=1e-5)
    # Also where numbers overflow, and wherever the molecule stands.
    here, there = (motion(model, x + a, 1e300 * v, z, lags, steps=True) for a in (0.0, 0.4))
    assert bool(here.isfinite().all()) and torch.allclose(here, there, atol=1e-6)


def test_flight_can_leave_with_the_exact_velocity():
    torch.manual_seed(0)
    config = {k: v for k, v in SMALL.items() if k != "modes_width"}
    x, v, z = start()
    for power, exact in ((1, False), (2, True)):
        atom = ATOM(ATOMConfig(output="flight", lag_gate_power=power, **config)).double().eval()
        with torch.no_grad():
            for parameter in atom.decoder.project_output.parameters():
                parameter.mul_(50)
            slope = (atom(x, v, z, torch.tensor([[1e-3]]))[0, 0] - x[0]) / 1e-3
        assert torch.allclose(slope, v[0], atol=1e-5) == exact
