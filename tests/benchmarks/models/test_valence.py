"""The valence force field: its terms, its physics, its whitened loss."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from atom.valence.steps import integrate
from atom.valence.terms import (
    COUPLINGS,
    Parameters,
    ValenceNetwork,
    energy,
    energy_and_forces,
)
from atom.valence.topology import join, topologies_of, topology_of
from atom.walk import bonded_pairs
from benchmarks.interface import Budget
from benchmarks.models import make_model
from benchmarks.models.force_fields.frames import batch_of, labels_of
from benchmarks.models.force_fields.losses import whitened_validation, whitening_of
from benchmarks.models.force_fields.rollout import RolloutSettings, roll_out
from benchmarks.models.force_fields.valence.model import BoundField
from benchmarks.models.normal_modes import inner_directions
from tg80.chemistry.mechanics import remove_rigid_motion
from tg80.constants import ACCELERATION, BOLTZMANN_EV_PER_K, masses_of
from tg80.dataset import load

FEW = ("ethylene", "acetonitrile", "furan", "methanol")


def molecule(name):
    """Relaxed positions (n, 3) float64 and atomic numbers of a shipped molecule."""
    shard = load("mini-xtb")[name]
    positions = torch.from_numpy(np.array(shard.static("relaxed_positions"), dtype=np.float64))
    return positions, torch.from_numpy(np.array(shard.atomic_numbers, dtype=np.int64))


def topology(name):
    positions, numbers = molecule(name)
    return topology_of(numbers, bonded_pairs(positions[None], numbers[None])[0])


def some_network(seed=0):
    """An untrained one whose last layers are not small, so that every term counts."""
    torch.manual_seed(seed)
    network = ValenceNetwork(16, 2).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return network


@torch.no_grad()
def some_parameters(terms, seed=0):
    return Parameters(*(tensor.double() for tensor in some_network(seed)(terms)))


@pytest.mark.parametrize(
    ("name", "n_bonds", "n_angles", "n_torsions", "n_planes", "n_linear"),
    [
        ("ethylene", 5, 6, 4, 2, 0),
        ("acetonitrile", 5, 7, 0, 0, 1),
        ("furan", 9, 13, 16, 4, 0),
        ("methanol", 5, 7, 3, 0, 0),
    ],
)
def test_a_molecule_has_the_terms_of_its_bond_graph(
    name, n_bonds, n_angles, n_torsions, n_planes, n_linear
):
    terms = topology(name)
    found = (len(terms.bonds), len(terms.angles), len(terms.torsions), len(terms.planes))
    assert found == (n_bonds, n_angles, n_torsions, n_planes)
    assert int(terms.linear.sum()) == n_linear
    _, numbers = molecule(name)
    assert bool(terms.rings[numbers > 1].any()) == (name == "furan")


@pytest.mark.parametrize("name", [*FEW, "formaldehyde"])
def test_forces_are_minus_the_slope_of_the_energy(name):
    """Linear molecules, rings and chains; displaced by 0.05 A, so that no term rests."""
    positions, _ = molecule(name)
    terms = topology(name)
    parameters = some_parameters(terms)
    x = positions + 0.05 * torch.randn(positions.shape, generator=torch.Generator().manual_seed(1))
    _, forces = energy_and_forces(x, terms, parameters)
    shift = 1e-5
    for atom in range(0, len(x), 2):
        for axis in range(3):
            moved = x.repeat(2, 1, 1)
            moved[0, atom, axis] += shift
            moved[1, atom, axis] -= shift
            up, down = (float(energy(y, terms, parameters)) for y in moved)
            slope = (up - down) / (2 * shift)
            assert float(forces[atom, axis]) == pytest.approx(-slope, abs=1e-6)


def test_the_energy_of_joined_molecules_is_that_of_each():
    terms = [topology(name) for name in FEW]
    x = [molecule(name)[0] for name in FEW]
    network = some_network().double()
    together = energy(torch.cat(x), join(terms), network(join(terms)))
    alone = torch.cat([energy(y, t, network(t)) for y, t in zip(x, terms, strict=True)])
    assert torch.allclose(together, alone, atol=1e-10)


@pytest.mark.parametrize("name", [*FEW, "1-butanol"])
def test_the_energy_does_not_depend_on_the_numbering_of_atoms(name):
    positions, numbers = molecule(name)
    x = positions + 0.05 * torch.randn(positions.shape, generator=torch.Generator().manual_seed(1))
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(2))
    bonded = bonded_pairs(positions[None], numbers[None])[0]
    renumbered = topology_of(numbers[order], bonded[order][:, order])
    network = some_network().double()
    before = energy(x, topology(name), network(topology(name)))
    assert torch.allclose(energy(x[order], renumbered, network(renumbered)), before, atol=1e-9)


def test_couplings_are_of_near_coordinates_once_each():
    """Ethylene, by hand: all bonds, all angles and all torsions are near each other."""
    terms = topology("ethylene")
    counts = {name: len(getattr(terms, name)) for name in COUPLINGS}
    assert counts == {"bond_bond": 10, "bond_angle": 30, "angle_angle": 15, "twist_twist": 6}
    double = int((terms.numbers[terms.bonds] == 6).all(1).nonzero()[0, 0])
    relations = {
        frozenset((one, other)): relation for one, other, relation in terms.bond_bond.tolist()
    }
    next_to, across = (
        {relation for pair, relation in relations.items() if (double in pair) == holds}
        for holds in (True, False)
    )
    # Bonds of one atom share it; those of two neighbours are one bond apart and share none.
    assert next_to == {1} and across == {1, 5}
    far = topology("1-butanol")
    assert len(far.bond_bond) < len(far.bonds) * (len(far.bonds) - 1) // 2


def test_a_new_network_has_no_couplings_and_learns_them():
    terms = topology("furan")
    network = ValenceNetwork(16, 2).eval()
    found = network(terms)
    x = molecule("furan")[0].float() * 1.02
    for name in COUPLINGS:
        assert not getattr(found, name).any()
    energy(x, terms, found).sum().backward()
    for relation in network.terms.couplings.relations.values():
        assert relation.weight.grad.any()


@pytest.mark.parametrize("name", FEW)
def test_the_energy_knows_neither_place_nor_orientation_nor_handedness(name):
    positions, _ = molecule(name)
    terms = topology(name)
    parameters = some_parameters(terms)
    matrix = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64)).Q
    before = energy(positions, terms, parameters)
    for turn in (matrix, -matrix):
        after = energy(positions @ turn + torch.tensor([1.0, -2.0, 3.0]), terms, parameters)
        assert torch.allclose(before, after, atol=1e-9)


def test_a_linear_molecule_stays_bound_and_bends_without_a_kink():
    """At 180 degrees the force on the bend is finite, vanishes, and grows evenly to both sides."""
    positions, numbers = molecule("acetonitrile")
    terms = topology("acetonitrile")
    torch.manual_seed(0)
    with torch.no_grad():
        parameters = ValenceNetwork(16, 2).eval().double()(terms)
    # Bonds at rest, or they would push the molecule out of its line.
    i, j = terms.bonds.unbind(1)
    parameters.bond[:, 1] = (positions[i] - positions[j]).norm(dim=1)
    nitrogen = int((numbers == 7).nonzero()[0])
    axis = positions[nitrogen] - positions.mean(0)
    across = torch.linalg.cross(axis, torch.tensor([0.3, 1.0, 0.2], dtype=torch.float64))
    across = across / across.norm()
    found = []
    for shift in (-0.02, -0.01, 0.01, 0.02):
        x = positions.clone()
        x[nitrogen] += shift * across
        _, forces = energy_and_forces(x, terms, parameters)
        assert bool(torch.isfinite(forces).all())
        found.append(float(forces[nitrogen] @ across))
    assert found[0] > found[1] > 0 > found[2] > found[3]


@pytest.fixture(scope="module")
def few(mini):
    """Fold 2 of the mini set with few training molecules, so that it is soon learnt."""
    training = mini.training
    kept = tuple(t.frames(0, 200) for t in training.trajectories if t.name in FEW)
    later = tuple(p for p in training.validation if p.name == "val_time")
    blocks = tuple(t for t in training.validation_blocks if t.name in FEW)
    return replace(training, trajectories=kept, validation=later, validation_blocks=blocks)


@pytest.fixture(scope="module", params=[True, False], ids=["whitened", "plain"])
def trained(request, few, tmp_path_factory):
    model = make_model(
        "valence", model={"width": 32, "whitened": request.param}, training={"batch_size": 16}
    )
    report = model.fit(few, budget=Budget(epochs=15), seed=0, out=tmp_path_factory.mktemp("fit"))
    return model, report


@pytest.mark.timeout(600)
def test_forces_of_later_frames_are_learnt(trained):
    """Well below what they are, in frames that nothing was learnt from."""
    _, report = trained
    assert report.longest_lag_fs is None
    assert report.best_validation is not None and report.best_validation < 0.7


def test_whitened_forces_have_unit_size_in_every_direction(few):
    """No force at all errs by 1: the forces' own covariance is what they are measured by."""
    whitening = whitening_of(few.trajectories)
    for block in few.trajectories:
        labels = labels_of(block)
        batch = batch_of([(block, frame, labels) for frame in range(block.n_frames)], {})
        losses = whitening(batch, torch.zeros_like(batch.forces))
        # Below 1 by the directions whose force is held up to a share of the largest.
        assert 0.9 < float(losses.mean()) < 1.02
        assert float(whitening(batch, batch.forces).abs().max()) == 0.0


def test_soft_motions_of_a_chain_are_whitened_and_its_turns_are_not():
    """A torque about the mean structure is larger than the force along a chain's softest mode."""
    block = load("tg80-xtb-v1").trajectory("1-hexanol", 0).frames(0, 1000)
    whitening = whitening_of([block])
    masses = masses_of(block.atomic_numbers)
    inner = inner_directions(whitening.structures[0].double().numpy(), masses)
    assert inner.shape == (63, 57)
    sizes = np.linalg.norm(whitening.roots[0].double().numpy() @ inner, axis=0)
    assert sizes.min() > 0.1 * np.median(sizes)
    rigid = np.linalg.svd(inner.T)[2][57:]
    left = np.linalg.norm(whitening.roots[0].double().numpy() @ rigid.T, axis=0)
    assert left.max() < 1e-4 * np.median(sizes)


def test_validation_takes_the_geometric_mean_over_molecules_and_parts(few):
    """By hand from parts of forces: a half, a tenth and none of them predicted."""
    a, b, c = few.trajectories[:3]
    whitening = whitening_of([a, b, c])

    def frames(block):
        labels = labels_of(block)
        return batch_of([(block, frame, labels) for frame in range(block.n_frames)], {})

    parts = {"val": [frames(a), frames(b)], "val_time": [frames(c)]}
    shares = {a.name: 0.5, b.name: 0.1, c.name: 0.0}

    def forces_of(module, batch):
        return batch.forces * torch.tensor([shares[n] for n in batch.molecule])[:, None, None]

    error = whitened_validation(parts, whitening, forces_of)(torch.nn.Identity())
    assert error == pytest.approx((0.5 * 0.9) ** 0.25, rel=0.03)


def test_a_soft_motion_weighs_as_much_as_a_stiff_one(few):
    """Methanol's torsion against its O-H stretch: relative errors of both cost the same."""
    block = next(t for t in few.trajectories if t.name == "methanol")
    whitening = whitening_of([block])
    values = torch.linalg.eigvalsh(whitening.roots[0].double())
    stiffest, softest = values[values > 1e-6 * values[-1]].min(), values[-1]
    assert float(softest / stiffest) > 3


def test_modes_are_whitened_by_what_they_are_not_by_how_hot_they_were(few):
    """Furan's four C-H stretches, 3130 to 3170 cm-1, beside all others, below 1600 cm-1."""
    block = next(t for t in few.trajectories if t.name == "furan")
    roots = torch.linalg.eigvalsh(whitening_of([block]).roots[0].double())
    sizes = 1 / roots[roots > 1e-6 * roots[-1]]  # of forces, which go as the frequency
    assert len(sizes) == 21
    assert sizes[3] > 0.75 * sizes[0] and sizes[4] < 0.6 * sizes[0]


class AtRest(torch.nn.Module):
    """All terms of ethylene that are not couplings, at rest in the relaxed structure."""

    def __init__(self, positions):
        super().__init__()
        self.positions = positions

    def forward(self, terms):
        i, j = terms.bonds.unbind(1)
        lengths = (self.positions[i] - self.positions[j]).norm(dim=1)
        a, b, c = (self.positions[terms.angles[:, k]] for k in range(3))
        cosines = torch.cosine_similarity(a - b, c - b, dim=1)
        bond = torch.stack([torch.full_like(lengths, 35.0), lengths, 0 * lengths], dim=1)
        angle = lengths.new_zeros(len(cosines), 4)
        angle[:, 0], angle[:, 1] = 6.0, cosines
        torsion, plane = lengths.new_zeros(len(terms.torsions), 6), lengths.new_zeros(2, 2)
        torsion[:, 1], plane[:, 0] = -0.2, 1.0
        pair = lengths.new_zeros(len(terms.pairs), 6)
        none = [lengths.new_zeros(len(getattr(terms, name)), 1) for name in COUPLINGS]
        return Parameters(bond, angle, torsion, plane, pair, *none)


def test_normal_modes_and_time_steps_agree_near_the_minimum(few):
    """Velocities of 1 K, where 120 fs of time steps of 0.5 fs differ by their own error only."""
    positions, numbers = molecule("ethylene")
    masses = masses_of(numbers.numpy())
    size = np.sqrt(BOLTZMANN_EV_PER_K * ACCELERATION / masses)[:, None]
    velocities = size * np.random.default_rng(0).normal(size=positions.shape)
    velocities = remove_rigid_motion(masses, positions.numpy(), velocities, linear=False)
    states = replace(
        few.validation[0].windows.states.select([0]),
        positions=positions.float()[None], velocities=torch.from_numpy(velocities).float()[None],
        atomic_numbers=numbers[None], score_mask=numbers[None] > 1,
    )  # fmt: skip
    lags = torch.tensor([[5.0, 20.0, 60.0, 120.0]])
    found = {}
    for propagator in ("verlet", "modes"):
        model = make_model(
            "valence", model={"propagator": propagator}, rollout={"time_step_fs": 0.5}
        )
        model.module = AtRest(positions)
        found[propagator], failed = model.predict(states, lags)
        assert not failed.any()
    moved = found["modes"] - states.positions[:, None]
    assert float((found["verlet"] - found["modes"]).norm() / moved.norm()) < 0.1


def test_steps_of_atom_are_those_of_a_rollout(few):
    """Two implementations of velocity Verlet, at lags between steps too, molecules of two sizes."""
    states = few.validation[0].windows.states.select([0, len(few.validation[0].windows.states) - 1])
    torch.manual_seed(0)
    network = ValenceNetwork(16, 2).eval()
    tops = topologies_of(states.positions, states.atomic_numbers)
    own = [Parameters(*(p.detach().double() for p in network(top))) for top in tops]
    lags = torch.tensor([[0.0, 0.4, 3.0, 20.5], [1.0, 7.0, 30.0, 33.3]])
    settings = RolloutSettings(time_step_fs=1.0)
    expected = roll_out(BoundField(tuple(tops), tuple(own)), states, lags, settings)
    masses = torch.from_numpy(masses_of(states.atomic_numbers.numpy())) * states.atom_mask
    parameters = Parameters(*(torch.cat(part) for part in zip(*own, strict=True)))
    found = integrate(states.positions, states.velocities, lags, masses, join(tops), parameters)
    assert not expected.failed.any()
    torch.testing.assert_close(found, expected.positions, atol=1e-8, rtol=0)


def test_dropout_acts_in_training_alone():
    network, top = ValenceNetwork(16, 2, dropout=0.5), topology("methanol")
    assert not torch.equal(network(top).bond, network(top).bond)
    assert torch.equal(network.eval()(top).bond, network(top).bond)
    assert make_model("valence", model={"dropout": 0.3}).build().graph.dropout.p == 0.3
