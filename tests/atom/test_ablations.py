"""Every ablation's forward differs, and for the reason that its description gives."""

import pytest
import torch

from atom import ATOM, ATOMConfig, bonded_pairs, random_walk_encoding
from atom.layers.lifting import make_lifting, safe_norm
from atom.variants.ablations import ABLATIONS
from tests.atom.cases import (
    MODES,
    ROUNDING_A,
    VISIBLE_A,
    Start,
    config,
    difference,
    lags,
    orthogonal,
    randomised,
    start,
)

NAMES = {
    "no-lifting", "strictly-equivariant", "standard-attention", "no-rope", "index-rope", "start",
    "joint", "no-input-noise", "no-target-noise", "no-random-walk", "no-value-residual", "gat",
    "no-pairs", "no-flight",
}  # fmt: skip
# Off by default, so that models of the paper's form load and count as they did.
EXTRAS = {"pair_layers": 1, "output": "flight"}
# Ways for the lag to be seen without T-RoPE; off, to see T-RoPE alone.
ROPE_ALONE = {"lag_embedding": False, "lag_gate_fs": None}


def test_names_and_settings():
    assert set(ABLATIONS) == NAMES
    whole = ATOMConfig(**EXTRAS)
    for name, ablation in ABLATIONS.items():
        assert "\n" not in ablation.description and ablation.description
        changed = ATOMConfig(**EXTRAS | ablation.overrides)
        # One of the two time attentions is the default.
        assert (changed != whole) or name == "joint"


@pytest.mark.parametrize("name", sorted(NAMES - {"joint", "no-input-noise", "no-target-noise"}))
def test_predictions_differ_from_the_whole_models(name):
    batch, times = start(), lags(100.0, 2000.0)
    torch.manual_seed(0)
    whole = ATOM(config(**EXTRAS))
    torch.manual_seed(0)
    without = ATOM(config(**EXTRAS | ABLATIONS[name].overrides))
    # Weights that both have are the same.
    shared = {
        n: p
        for n, p in whole.named_parameters()
        if dict(without.named_parameters()).get(n) is not None
    }
    with torch.no_grad():
        for n, p in without.named_parameters():
            if n in shared and p.shape == shared[n].shape:
                p.copy_(shared[n])
    moved = whole(*batch, times) - batch.positions[:, None]
    assert difference(whole(*batch, times), without(*batch, times)) > 1e-3 * float(
        moved.detach().abs().max()
    )


def test_no_lifting_is_linear_in_inputs_and_norms():
    settings = config(**ABLATIONS["no-lifting"].overrides)
    torch.manual_seed(0)
    lifting, batch = make_lifting(settings), start()
    walk = torch.rand(2, 5, settings.walk_steps)
    velocities = 200 * batch.velocities
    lifted, phase = lifting(batch.positions, velocities, batch.atomic_numbers, walk)
    inputs = [batch.positions, velocities, safe_norm(batch.positions), safe_norm(velocities)]
    inputs = torch.cat([*inputs, lifting.embedding(batch.atomic_numbers), walk], dim=-1)
    by_hand = inputs @ lifting.lift.weight.T + lifting.lift.bias
    found = torch.cat([lifted[:, 0], lifted[:, 1], phase], dim=-1)
    assert difference(found, by_hand) < 1e-5

    # Its scalars turn into something else with the molecule; the lifted ones do not.
    rotation = orthogonal(0, reflect=False).float()
    turned = (batch.positions @ rotation.T, velocities @ rotation.T, batch.atomic_numbers, walk)
    m = settings.multiplicity
    assert difference(lifting(*turned)[1][..., :m], phase[..., :m]) > 0.1
    equivariant = make_lifting(config())
    still = equivariant(batch.positions, velocities, batch.atomic_numbers, walk)
    assert difference(equivariant(*turned)[1][..., :m], still[1][..., :m]) < ROUNDING_A


def test_without_pairs_no_atom_is_lifted_by_its_surroundings():
    batch = start()
    moved = batch.positions.clone()
    moved[:, 4] += 0.3
    scaled = 200 * batch.velocities

    def change_of_the_others(**overrides):
        torch.manual_seed(0)
        lifting = make_lifting(config(**EXTRAS | overrides))
        walk = torch.rand(2, 5, config().walk_steps)
        before, after = (
            lifting(x, scaled, batch.atomic_numbers, walk)[1] for x in (batch.positions, moved)
        )
        return difference(before[:, :4], after[:, :4])

    assert change_of_the_others() > VISIBLE_A
    assert change_of_the_others(**ABLATIONS["no-pairs"].overrides) == 0


def test_flight_is_ballistic_at_first_and_ends():
    batch, tau = start(), config().flight_fs
    times = lags(0.01, 1.0, 10_000.0)

    def base(**overrides):
        torch.manual_seed(0)
        model = ATOM(config(**EXTRAS | overrides)).double()
        with torch.no_grad():
            for parameter in model.decoder.project_output.parameters():
                parameter.zero_()
        return model(
            *(t.double() for t in (batch.positions, batch.velocities)),
            batch.atomic_numbers,
            times.double(),
        )

    moved = base() - batch.positions[:, None]
    free = batch.velocities[:, None] * times[..., None, None]
    assert torch.allclose(moved[:, 0], free[:, 0].double(), rtol=1e-3, atol=1e-7)
    assert torch.allclose(moved[:, 1] / free[:, 1], torch.full((), 0.968).double(), rtol=1e-2)
    assert torch.allclose(moved[:, 2], (tau * batch.velocities).double(), rtol=1e-5)
    still = base(**ABLATIONS["no-flight"].overrides)
    assert difference(still, batch.positions[:, None]) < 1e-9


@pytest.mark.parametrize("name", [None, "standard-attention"])
@pytest.mark.parametrize("keys", ["steps", "start"])
def test_standard_attention_sees_x_and_v_through_z_alone(name, keys):
    overrides = {} if name is None else ABLATIONS[name].overrides
    model, batch, times = randomised(lifted_keys=keys, **overrides), start(), lags(100.0, 900.0)
    reference = model(*batch, times)

    def replace_x_and_v(_module, _inputs, output):
        lifted, phase = output
        return torch.randn_like(lifted), phase

    handle = model.lifting.register_forward_hook(replace_x_and_v)
    replaced = model(*batch, times)
    handle.remove()
    assert torch.equal(model(*batch, times), reference)
    if name is None:
        assert difference(replaced, reference) > VISIBLE_A
    else:
        assert torch.equal(replaced, reference)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("keys", ["steps", "start"])
def test_without_rope_and_lag_embedding_all_steps_are_alike(mode, keys):
    settings = {"time_attention": mode, "lifted_keys": keys, **ROPE_ALONE}
    blind = randomised(**settings, **ABLATIONS["no-rope"].overrides)
    batch = start()
    predicted = blind(*batch, lags(10.0, 3000.0))
    assert difference(predicted[:, 0], predicted[:, 1]) < ROUNDING_A
    assert difference(blind(*batch, lags(700.0)), predicted[:, :1]) < ROUNDING_A
    seeing = randomised(**settings)(*batch, lags(10.0, 3000.0))
    assert difference(seeing[:, 0], seeing[:, 1]) > VISIBLE_A


@pytest.mark.parametrize("mode", MODES)
def test_index_rope_sees_the_rank_of_a_lag_only(mode):
    by_rank = {"time_attention": mode, **ROPE_ALONE, **ABLATIONS["index-rope"].overrides}
    model, batch = randomised(**by_rank), start()
    reference = model(*batch, lags(10.0, 20.0, 40.0))
    assert difference(model(*batch, lags(1000.0, 2000.0, 4000.0)), reference) < ROUNDING_A
    assert difference(model(*batch, lags(1.0, 700.0, 701.0)), reference) < ROUNDING_A
    for first, second in ((0, 1), (1, 2)):
        assert difference(reference[:, first], reference[:, second]) > VISIBLE_A
    in_time = randomised(time_attention=mode, **ROPE_ALONE)
    assert difference(
        in_time(*batch, lags(10.0, 20.0, 40.0)), in_time(*batch, lags(1000.0, 2000.0, 4000.0))
    ) > VISIBLE_A  # fmt: skip


@pytest.mark.parametrize("name", MODES)
def test_other_lags_matter_in_joint_mode_alone(name):
    model, batch = randomised(**ABLATIONS[name].overrides), start()
    alone, together = model(*batch, lags(100.0)), model(*batch, lags(100.0, 900.0))
    change = difference(alone[:, 0], together[:, 0])
    assert change < ROUNDING_A if name == "start" else change > VISIBLE_A


@pytest.mark.parametrize(
    ("name", "moved"),
    [
        (None, (True, True, True)),
        ("no-input-noise", (False, False, True)),
        ("no-target-noise", (True, True, False)),
    ],
)
def test_input_and_target_noise_are_apart(name, moved):
    batch, times = start(), lags(100.0)
    targets = batch.positions[:, None].clone()
    seen = {}

    class Spy(ATOM):
        def forward(self, positions, velocities, *_):
            seen.update(positions=positions, velocities=velocities)
            return batch.positions[:, None]

    model = Spy(config(**({} if name is None else ABLATIONS[name].overrides)))
    loss = model.training_loss(*batch, times, targets)
    found = (
        not torch.equal(seen["positions"], batch.positions),
        not torch.equal(seen["velocities"], batch.velocities),
        float(loss) > 0,
    )
    assert found == moved


def test_no_random_walk_is_blind_to_bonds():
    batch, times = start(), lags(100.0, 900.0)
    bonds = bonded_pairs(batch.positions, batch.atomic_numbers)
    whole, blind = randomised(), randomised(**ABLATIONS["no-random-walk"].overrides)
    assert bonds.any()
    for model, matters in ((whole, True), (blind, False)):
        change = difference(
            model(*batch, times), model(*batch, times, bonds=torch.zeros_like(bonds))
        )
        assert (change > VISIBLE_A) is matters
    walk = random_walk_encoding(bonds, 16)
    with pytest.raises(ValueError, match="walk_encoding"):
        blind(*batch, times, walk_encoding=walk)


@pytest.mark.parametrize("name", [None, "no-value-residual"])
def test_value_residual_brings_in_the_first_blocks_values(name):
    model = randomised(**({} if name is None else ABLATIONS[name].overrides))
    calls = []
    handles = [
        block.register_forward_hook(lambda _module, inputs, output: calls.append((inputs, output)))
        for block in model.decoder.blocks
    ]
    model(*start(), lags(100.0))
    for handle in handles:
        handle.remove()
    (*inputs, first), (update, _) = calls[1]
    assert first is calls[0][1][1]
    other = first._replace(phase=2 * first.phase, lifted=2 * first.lifted)
    change = difference(model.decoder.blocks[1](*inputs, other)[0], update)
    assert change > VISIBLE_A if name is None else change == 0


def chain(n_atoms: int) -> Start:
    """Carbon atoms in a row, each bonded to the next."""
    batch = start(1, n_atoms)
    positions = torch.zeros(1, n_atoms, 3)
    positions[..., 0] = 1.5 * torch.arange(n_atoms)
    return Start(positions, batch.velocities, torch.full((1, n_atoms), 6))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("overrides", "reached"),
    [
        (ABLATIONS["gat"].overrides, 3),
        ({**ABLATIONS["gat"].overrides, "lifted_keys": "start"}, 3),
        ({**ABLATIONS["gat"].overrides, "graph_radius_angstrom": 3.1}, 6),
        ({"neighbours": "bonded"}, 3),
        ({}, 7),
    ],
)
def test_messages_travel_one_edge_a_block(mode, overrides, reached):
    """The velocity of one end, which no centring spreads, is felt so many atoms away."""
    model, batch, times = randomised(time_attention=mode, **overrides), chain(8), lags(100.0)[:1]
    assert len(model.decoder.blocks) == 3
    pushed = batch.velocities.clone()
    pushed[:, 0] += 0.01
    moved = model(batch.positions, pushed, batch.atomic_numbers, times) - model(*batch, times)
    felt = moved[0, 0].detach().abs().amax(-1)
    assert torch.all(felt[: reached + 1] > 1e-6)
    assert torch.all(felt[reached + 1 :] == 0)
