"""EGNO and EGNN: symmetry, batches, messages, gradients, lags, and a system they can learn."""

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from atom.loss import masked_loss
from atom.walk import bonded_pairs
from benchmarks.models import make_model
from benchmarks.models.edges import find_edges
from benchmarks.models.egnn import EGNNConfig, EGNNModule
from benchmarks.models.egnn_rollout import EGNNRolloutConfig, EGNNRolloutModule, bounded
from benchmarks.models.egno import (
    EGNOConfig,
    EGNOModule,
    PublishedEGNOModule,
    TemporalConvolution,
    waves_of,
)
from benchmarks.testing import check_model
from tests.support import toys
from tg80.errors import UserError

LAGS = (40.0, 90.0, 300.0, 310.0, 900.0)
EXACT = {"atol": 1e-9, "rtol": 0}


def egno(**fields) -> EGNOModule:
    torch.manual_seed(0)
    return _lively(EGNOModule(EGNOConfig(**{"n_layers": 3, "width": 16, "n_modes": 3} | fields)))


def egnn(**fields) -> EGNNModule:
    torch.manual_seed(0)
    return _lively(EGNNModule(EGNNConfig(**{"n_layers": 3, "width": 16} | fields)))


def rollout(**fields) -> EGNNRolloutModule:
    torch.manual_seed(0)
    return _lively(EGNNRolloutModule(EGNNRolloutConfig(**{"n_layers": 3, "width": 16} | fields)))


def published(**fields) -> PublishedEGNOModule:
    torch.manual_seed(0)
    fields = {"n_layers": 3, "width": 16, "n_modes": 3, "published": True} | fields
    return PublishedEGNOModule(EGNOConfig(**fields)).double()


MAKERS = {"egno": egno, "egno-published": published, "egnn": egnn, "egnn-rollout": rollout}


def _lively(module):
    """In float64, with coordinates that move by a good part of an angstrom."""
    module = module.double()
    with torch.no_grad():
        for layer in module.layers:
            layer.pull[-1].weight.mul_(300)
        for layer in getattr(module, "temporal", ()):
            layer.vectors.real.mul_(10)
    return module


def molecules(sizes=(5, 8, 3), seed=0):
    """Bent chains of atoms 1.4 A apart, padded: (positions, velocities, numbers, lags)."""
    generator = torch.Generator().manual_seed(seed)
    most = max(sizes)
    positions = torch.zeros(len(sizes), most, 3, dtype=torch.float64)
    velocities, numbers = torch.zeros_like(positions), torch.zeros(len(sizes), most).long()
    for row, n in enumerate(sizes):
        steps = torch.randn(n, 3, generator=generator, dtype=torch.float64) + torch.tensor(
            [2, 0, 0]
        )
        positions[row, :n] = (1.4 * steps / steps.norm(dim=-1, keepdim=True)).cumsum(0)
        velocities[row, :n] = 0.01 * torch.randn(n, 3, generator=generator, dtype=torch.float64)
        numbers[row, :n] = torch.tensor([6, 7, 8])[torch.randint(3, (n,), generator=generator)]
    lags = torch.tensor(LAGS, dtype=torch.float64).expand(len(sizes), -1).clone()
    return positions, velocities, numbers, lags


@pytest.fixture(params=MAKERS)
def module(request):
    return MAKERS[request.param]()


@settings(max_examples=5, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    reflect=st.booleans(),
    shift=st.floats(-50, 50),
    model=st.sampled_from(sorted(MAKERS)),
)
def test_rotations_reflections_and_shifts_are_exact(seed, reflect, shift, model):
    fields = {} if model == "egno-published" else {"radius_angstrom": 4.0}
    module = MAKERS[model](**fields)
    x, v, z, lags = molecules(seed=seed % 1000)
    random = torch.randn(3, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    turn = torch.linalg.qr(random).Q
    turn = turn * (turn.det() * (-1 if reflect else 1))
    real = (z > 0)[..., None]
    moved = torch.where(real, x @ turn.T + shift, 0.0)
    expected = module(x, v, z, lags) @ turn.T + shift
    found = module(moved, v @ turn.T, z, lags)
    torch.testing.assert_close(
        torch.where(real[:, None], found, 0.0), torch.where(real[:, None], expected, 0.0), **EXACT
    )
    moves = (expected - (x @ turn.T + shift)[:, None]).detach().norm(dim=-1)
    assert float(moves[:, :, :3].min()) > 1e-3


def test_a_batch_is_its_samples_and_padding_changes_nothing(module):
    x, v, z, lags = molecules()
    lags[1, 3:] = torch.nan
    together = module(x, v, z, lags)
    for row, n in enumerate((5, 8, 3)):
        alone = module(*(a[row : row + 1, :n] for a in (x, v, z)), lags[row : row + 1])
        torch.testing.assert_close(together[row, :, :n], alone[0], **EXACT)
    fewer = module(x[1:2], v[1:2], z[1:2], lags[1:2, :3])
    torch.testing.assert_close(together[1, :3], fewer[0], **EXACT)
    # Padded steps and atoms stay where they are.
    torch.testing.assert_close(together[1, 3:], x[1].expand(2, -1, -1), **EXACT)
    assert float(together[2, :, 3:].abs().max()) == 0


def test_messages_reach_the_neighbours_in_every_sample(module):
    inputs = molecules(sizes=(5, 8, 3, 6))
    before = module(*inputs)
    for row in range(4):
        x, v, z, lags = (a.clone() for a in inputs)
        z[row, 0] = 16  # Sulfur in place of the first atom: its neighbour must notice.
        change = (module(x, v, z, lags) - before).abs().amax((1, 3))
        assert float(change[row, 1]) > 1e-6
        change[row] = 0
        assert float(change.max()) == 0


def test_one_layer_sees_two_bonds_far_and_not_three():
    x, v, z, lags = molecules(sizes=(8,))
    module = egnn(n_layers=1)
    before = module(x, v, z, lags)
    z[0, 0] = 9
    edges = module.edges(x, z)
    reached = set(edges.sender[edges.receiver == 0].tolist())
    changed = (module(x, v, z, lags) - before).abs().amax((0, 1, 3)) > 1e-9
    assert set(changed.nonzero().flatten().tolist()) == reached | {0}
    assert {1, 2} <= reached < set(range(1, 8))


def test_edges_by_hand():
    """Hydrogen cyanide and a far chlorine; the second sample has an atom less."""
    x = torch.tensor([[[0.0, 0, 0], [1.07, 0, 0], [2.22, 0, 0], [6.0, 0, 0]]] * 2)
    z = torch.tensor([[1, 6, 7, 17], [1, 6, 7, 0]])
    bonded = bonded_pairs(x, z, 1.25)
    edges = find_edges(x, z, bonded, two_hops=True, radius_angstrom=4.0)
    kinds = edges.features.argmax(1).tolist()
    found = dict(
        zip(zip(edges.receiver.tolist(), edges.sender.tolist(), strict=True), kinds, strict=True)
    )
    one = {(0, 1): 0, (1, 2): 0, (0, 2): 1}
    expected = one | {(2, 3): 2} | {(i + 4, j + 4): kind for (i, j), kind in one.items()}
    assert found == expected | {(j, i): kind for (i, j), kind in expected.items()}
    assert edges.degree[:, 0].tolist() == [2, 2, 3, 1, 2, 2, 2, 1]
    assert bool((edges.features.sum(1) == 1).all())
    bonds = find_edges(x, z, bonded, two_hops=False, radius_angstrom=None)
    assert len(bonds.receiver) == 8


def test_every_parameter_but_the_last_node_update_is_learnt(module):
    x, v, z, lags = molecules()
    (module(x, v, z, lags) - x[:, None]).square().sum().backward()
    unused = {
        name for name, p in module.named_parameters() if p.grad is None or not bool(p.grad.any())
    }
    assert unused == {f"layers.2.node.{i}.{kind}" for i in (0, 2) for kind in ("weight", "bias")}


def test_the_lag_itself_counts_and_not_its_rank_except_as_published(module):
    x, v, z, lags = molecules()
    if isinstance(module, PublishedEGNOModule):
        torch.testing.assert_close(module(x, v, z, lags), module(x, v, z, lags + 200), **EXACT)
        return
    moved = module(x, v, z, lags) - x[:, None]
    later = module(x, v, z, lags + 200) - x[:, None]
    assert float((moved - later).abs().amax((1, 2, 3)).min()) > 1e-3
    single = module(x, v, z, lags[:, :1]) - module(x, v, z, lags[:, 1:2])
    assert float(single.abs().amax((1, 2, 3)).min()) > 1e-3


def test_lags_are_put_in_order(module):
    x, v, z, lags = molecules()
    lags[1, 4] = torch.nan
    order = torch.tensor([3, 0, 4, 2, 1])
    found, plain = module(x, v, z, lags[:, order]), module(x, v, z, lags)
    torch.testing.assert_close(found, plain[:, order], **EXACT)


def test_only_egno_couples_the_lags():
    x, v, z, lags = molecules()
    changed = lags.clone()
    changed[:, -1] = 2000.0
    for make, coupled in ((egnn, False), (egno, True)):
        module = make()
        difference = module(x, v, z, lags) - module(x, v, z, changed)
        assert (float(difference[:, :-1].abs().max()) > 1e-6) == coupled


def test_a_rollout_begins_each_step_with_the_state_before_it():
    x, v, z, lags = molecules(sizes=(5,))
    module = rollout()
    at = module(x, v, z, lags)
    changed = lags.clone()
    changed[:, 2] = 250.0
    difference = (module(x, v, z, changed) - at).abs().amax((0, 2, 3))
    assert float(difference[:2].max()) == 0 and float(difference[2:].min()) > 1e-6
    # The first step is the one-shot prediction of the same weights, if it is not too long.
    one_shot = egnn()
    one_shot.load_state_dict(module.state_dict())
    first = bounded((one_shot(x, v, z, lags) - x[:, None])[:, :1], 3.0)
    torch.testing.assert_close(at[:, :1] - x[:, None], first, **EXACT)


def test_a_rollout_stays_finite_with_large_weights():
    module = rollout()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(2)
    x, v, z, lags = molecules()
    moved = module(x, v, z, lags) - x[:, None]
    assert bool(moved.isfinite().all())
    farthest = moved.norm(dim=-1).amax((0, 2))
    assert bool((farthest < 3.0 * torch.arange(1, len(LAGS) + 1) + 1e-6).all())


@pytest.mark.parametrize("n_steps", [1, 2, 5, 8])
def test_the_convolution_is_torch_s_fourier_transform(n_steps):
    torch.manual_seed(n_steps)
    convolution = TemporalConvolution(4, 3, scale=1.0).double()
    f = torch.randn(2, 3, n_steps, 4, dtype=torch.float64)
    lags = torch.arange(1.0, n_steps + 1).expand(2, -1)
    modes = torch.fft.rfft(f, dim=2)
    weights = torch.complex(
        convolution.real, torch.cat([torch.zeros(1, 4, 4), convolution.imaginary])
    )
    mixed = torch.zeros_like(modes)
    kept = min(3, modes.shape[2])
    mixed[:, :, :kept] = torch.einsum("bnkc,kcd->bnkd", modes[:, :, :kept], weights[:kept])
    expected = torch.fft.irfft(mixed, n=n_steps, dim=2)
    found = convolution(f, waves_of(lags, 3, torch.float64))
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


def springs(n_samples, lags, generator, n_atoms=5):
    """Atoms of three elements on springs of no length, all with all: exact positions at the lags.

    Returns:
        positions, velocities (A, A/fs), atomic numbers, targets (B, P, N, 3).
    """
    numbers = torch.tensor([6, 7, 8])[torch.randint(3, (n_samples, n_atoms), generator=generator)]
    charge = torch.where(numbers == 6, 1.0, 2.0)
    stiffness = 2e-5 * charge[:, :, None] * charge[:, None, :]
    laplacian = torch.diag_embed(stiffness.sum(-1)) - stiffness
    squared, modes = torch.linalg.eigh(laplacian.double())
    rate = squared.clamp(min=1e-12).sqrt()[:, None]
    x = torch.randn(n_samples, n_atoms, 3, generator=generator).double()
    v = 0.015 * torch.randn(n_samples, n_atoms, 3, generator=generator).double()
    time = lags[:, :, None].double()
    swing, push = (rate * time).cos(), (rate * time).sin() / rate
    amplitudes = [modes.transpose(1, 2)[:, None] @ a[:, None] for a in (x, v)]
    moved = swing[..., None] * amplitudes[0] + push[..., None] * amplitudes[1]
    return x.float(), v.float(), numbers, (modes[:, None] @ moved).float()


def error_after_training(kind, *, shuffled):
    """Mean squared error on new springs, over that of standing still."""
    torch.manual_seed(0)
    fields = {"n_layers": 2, "width": 24, "radius_angstrom": 100.0, "two_hops": False}
    module = kind(fields)
    optimizer = torch.optim.Adam(module.parameters(), lr=4e-3)
    generator = torch.Generator().manual_seed(1)

    def batch(size):
        lags = (15 + 185 * torch.rand(size, 6, generator=generator)).sort(1).values
        return lags, *springs(size, lags, generator)

    steps = 90
    for step in range(steps):
        lags, x, v, z, targets = batch(24)
        if shuffled:
            lags = lags[:, torch.randperm(6, generator=generator)]
        for group in optimizer.param_groups:
            group["lr"] = 4e-3 * 0.5 * (1 + math.cos(math.pi * step / steps))
        optimizer.zero_grad()
        error = masked_loss(module(x, v, z, lags), targets, z > 0, ~lags.isnan())
        error.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
    lags, x, v, z, targets = batch(200)
    with torch.no_grad():
        error = masked_loss(module(x, v, z, lags), targets, z > 0, ~lags.isnan())
    return float(error / (targets - x[:, None]).square().mean())


@pytest.mark.parametrize(
    "kind",
    [
        lambda fields: EGNOModule(EGNOConfig(**fields)),
        lambda fields: EGNNModule(EGNNConfig(**fields)),
        lambda fields: EGNNRolloutModule(EGNNRolloutConfig(**fields)),
    ],
    ids=("egno", "egnn", "egnn-rollout"),
)
def test_coupled_oscillators_are_learnt_and_the_lags_are_what_is_learnt_from(kind):
    right = error_after_training(kind, shuffled=False)
    wrong = error_after_training(kind, shuffled=True)
    assert right < 0.3
    assert right < 0.5 * wrong


def test_the_published_form_is_the_authors_equations():
    """Every molecule on its own, with all their weights: deviation over displacement."""
    module = published(n_layers=5, width=64, n_modes=2, time_width=32)
    x, v, z, _ = molecules(sizes=(7, 9, 4))
    lags = 30.0 * torch.arange(1.0, 9.0).expand(3, -1)
    found = module(x, v, z, lags)
    v = module.config.velocity_time_fs * v
    for row, n in enumerate((7, 9, 4)):
        expected = authors(module, x[row, :n], v[row, :n], z[row, :n], n_steps=8)
        moved = (expected - x[row, :n]).norm(dim=-1)
        off = (found[row, :, :n] - expected).norm(dim=-1)
        assert float(off.max() / moved.max()) < 1e-7
        assert float(moved.max()) > 0.1


def authors(module, x, v, z, n_steps):
    """Positions (T, N, 3) by the equations of github.com/MinkaiXu/EGNO, for one molecule.

    Theirs has a flag of the edges and weights of modes that are left out here, drawn at random.
    """

    def mlp(layers, f, last=False):
        f = torch.nn.functional.silu(layers[0](f))
        return torch.nn.functional.silu(layers[-1](f)) if last else layers[-1](f)

    def convolved(convolution, f):
        n_channels = f.shape[-1]
        weights = torch.randn(n_channels, n_channels, 2, 2).to(f)
        kept = len(convolution.real)
        weights[..., :kept, 0] = convolution.real.detach().permute(1, 2, 0)
        if kept > 1:
            weights[..., 1:, 1] = convolution.imaginary.detach().permute(1, 2, 0)
        modes = torch.fft.rfft(f, dim=0)[:2]
        modes = torch.einsum("m...i,iom->m...o", modes, torch.view_as_complex(weights))
        return torch.fft.irfft(modes, n=n_steps, dim=0)

    near = (x[:, None] - x).norm(dim=-1) < 1.6
    near.fill_diagonal_(False)
    twice = near.int() @ near.int()
    edges = [
        (i, j, 1 if near[i, j] else 2)
        for i in range(len(z))
        for j in range(len(z))
        if i != j and (near[i, j] or twice[i, j])
    ]
    row, col = torch.tensor([[i, j] for i, j, _ in edges]).T
    kind = torch.tensor([kind for *_, kind in edges]).to(x)
    apart = (x[row] - x[col]).square().sum(-1)
    told = torch.stack([z[row].to(x), z[col].to(x), kind, torch.zeros_like(kind), apart], dim=-1)
    count = torch.bincount(row, minlength=len(z)).clamp(min=1)[:, None]

    half = module.config.time_width // 2
    rates = torch.exp(-math.log(10_000) / (half - 1) * torch.arange(half))
    angles = (torch.arange(n_steps)[:, None] * rates).to(x)
    time = torch.cat([angles.sin(), angles.cos()], dim=-1)[:, None].expand(-1, len(z), -1)
    nodes = torch.stack([v.norm(dim=-1), z / z.max()], dim=-1).to(x).expand(n_steps, -1, -1)
    h = module.lift(torch.cat([nodes, time], dim=-1))
    x, v = x.expand(n_steps, -1, -1), v.expand(n_steps, -1, -1)
    mean = x.mean(1, keepdim=True)
    for layer, temporal in zip(module.layers, module.temporal, strict=True):
        h = h + torch.nn.functional.leaky_relu(convolved(temporal.features, h), 0.01)
        pair = torch.stack([x - mean, v], dim=-1)
        pair = pair + convolved(temporal.vectors, pair)
        x, v = pair[..., 0] + mean, pair[..., 1]
        states = []
        for x_t, h_t, v_t in zip(x, h, v, strict=True):
            apart = x_t[row] - x_t[col]
            distance2 = apart.square().sum(-1, keepdim=True)
            inputs = torch.cat([distance2, h_t[row], h_t[col], told], dim=-1)
            flag = torch.randn(h.shape[-1], 1).to(x)
            of_edges = layer.edge.weight
            first = torch.nn.Linear(inputs.shape[1], h.shape[-1]).to(x)
            columns = (
                of_edges[:, :1], layer.receiver.weight, layer.sender.weight, of_edges[:, 1:4], flag,
                of_edges[:, 4:],
            )  # fmt: skip
            first.weight.data = torch.cat(columns, dim=1).detach()
            first.bias.data = layer.receiver.bias.detach()
            message = mlp((first, layer.message), inputs, last=True)
            pull = torch.zeros_like(x_t).index_add(0, row, apart * mlp(layer.pull, message)) / count
            total = torch.zeros_like(h_t).index_add(0, row, message)
            x_t = x_t + mlp(layer.keep, h_t) * v_t + pull.clamp(-100, 100)
            states.append((x_t, mlp(layer.node, torch.cat([h_t, total], dim=-1))))
        x, h = (torch.stack(parts) for parts in zip(*states, strict=True))
    return x


def test_the_published_form_passes_the_suite(data):
    settings = {name: dict(fields) for name, fields in toys.TINY_EGNN.items()}
    model = make_model("egno", preset="published", **settings)
    assert isinstance(model.build(), PublishedEGNOModule)
    check_model(model, data)


def test_the_published_form_takes_no_setting_without_effect():
    with pytest.raises(UserError, match="bond_factor has no effect if published is true"):
        make_model("egno", preset="published", model={"bond_factor": 1.3})


def test_saved_settings_without_a_form_are_those_of_our_own():
    settings = make_model("egno").settings()
    del settings["model"]["published"]
    assert isinstance(make_model("egno", **settings).build(), EGNOModule)


def test_presets_are_defaults_that_settings_override():
    model = make_model("egno", preset="published", training={"batch_size": 8})
    assert model.config.n_layers == 5
    assert (model.training.batch_size, model.training.learning_rate) == (8, 1e-4)
    assert type(model)(**model.settings()).settings() == model.settings()


def test_a_damaged_or_foreign_file_of_weights_is_named(data, tmp_path):
    model = make_model("egnn", **toys.TINY_EGNN)
    model.initialise(data.training, seed=0)
    model.save(tmp_path)
    (tmp_path / "settings.json").write_text(make_settings(width=12))
    with pytest.raises(ValueError, match="do not fit the settings"):
        type(model).load(tmp_path)
    (tmp_path / "weights.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="not a readable file of weights"):
        type(model).load(tmp_path)


def make_settings(**fields) -> str:
    tiny = toys.TINY_EGNN["model"] | fields
    return json.dumps(make_model("egnn", **toys.TINY_EGNN | {"model": tiny}).settings())
