"""What any prediction must obey, on randomised weights, in every attention mode."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from atom import ATOM, quasi_equivariance, random_rotations
from tests.atom.cases import (
    MODES,
    ROUNDING_A,
    STRICT,
    VARIANTS,
    VISIBLE_A,
    config,
    difference,
    lags,
    orthogonal,
    ragged,
    randomised,
    start,
)


def each(variants):
    return pytest.mark.parametrize(
        "variant", variants, ids=lambda v: "-".join(f"{k}={v}" for k, v in v.items())
    )


every_variant, every_quasi_variant = each([*VARIANTS, *STRICT]), each(VARIANTS)
drawn = settings(
    max_examples=5, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
seeds = st.integers(0, 2**16)
lag_values = st.floats(1.0, 32_000.0, width=32)


@every_variant
@drawn
@given(sizes=st.lists(st.integers(1, 6), min_size=2, max_size=4), seed=seeds)
def test_a_batch_gives_what_its_samples_give(variant, sizes, seed):
    model, batch = randomised(**variant), ragged(tuple(sizes), seed)
    times = lags(40.0, 900.0, 3000.0, n_samples=len(sizes))
    together = model(*batch, times)
    for i, size in enumerate(sizes):
        alone = model(*batch.sample(i), times[i : i + 1])[0]
        assert difference(together[i, :, :size], alone) < ROUNDING_A
        assert torch.all(together[i, :, size:] == 0)


@every_variant
@drawn
@given(seed=seeds, values=st.lists(lag_values, min_size=1, max_size=3), place=st.integers(0, 3))
def test_padded_lags_change_nothing(variant, seed, values, place):
    model, batch = randomised(**variant), start(2, 4, seed)
    place = min(place, len(values))
    padded = [*values[:place], float("nan"), *values[place:]]
    kept = [i for i in range(len(padded)) if i != place]
    without, with_padding = model(*batch, lags(*values)), model(*batch, lags(*padded))
    assert difference(without, with_padding[:, kept]) < ROUNDING_A
    assert torch.equal(with_padding[:, place], batch.positions)


@every_variant
@drawn
@given(seed=seeds, order=st.permutations(range(5)))
def test_permuted_atoms_permute_the_prediction(variant, seed, order):
    model, batch = randomised(**variant), start(2, 5, seed)
    times = lags(100.0, 2000.0)
    expected = model(*batch, times)[:, :, order]
    assert difference(model(*batch.take(list(order)), times), expected) < ROUNDING_A


@every_variant
@drawn
@given(seed=seeds, shift=st.lists(st.floats(-50, 50), min_size=3, max_size=3))
def test_translations_are_exact(variant, seed, shift):
    model, batch = randomised(**variant), start(2, 5, seed)
    moved = batch.positions + torch.tensor(shift)
    times = lags(100.0, 2000.0)
    still = model(*batch, times)
    turned = model(moved, batch.velocities, batch.atomic_numbers, times) - torch.tensor(shift)
    # Adding 50 A to a float32 coordinate rounds it by 4e-6 A, which the model may amplify.
    assert difference(turned, still) < 10 * ROUNDING_A


@every_variant
@drawn
@given(seed=seeds, order=st.permutations(range(4)))
def test_the_order_of_lags_does_not_matter(variant, seed, order):
    model, batch = randomised(**variant), start(2, 4, seed)
    times = lags(10.0, 300.0, 1000.0, 20_000.0)
    expected = model(*batch, times)[:, order]
    assert difference(model(*batch, times[:, list(order)]), expected) < ROUNDING_A


@drawn
@given(seed=seeds, values=st.lists(lag_values, min_size=2, max_size=5))
def test_start_mode_predicts_a_lag_alike_alone_and_in_company(seed, values):
    model, batch = randomised(time_attention="start"), start(2, 4, seed)
    together = model(*batch, lags(*values))
    for p, value in enumerate(values):
        assert difference(model(*batch, lags(value))[:, 0], together[:, p]) < ROUNDING_A


def test_joint_mode_lets_steps_see_each_other():
    model, batch = randomised(time_attention="joint"), start()
    alone, together = model(*batch, lags(100.0)), model(*batch, lags(100.0, 900.0))
    assert difference(alone[:, 0], together[:, 0]) > VISIBLE_A


@pytest.mark.parametrize("mode", MODES)
def test_rope_alone_shows_the_lag(mode):
    # Neither the lag embedding nor the gate helps: the start state among the keys does it.
    model = randomised(time_attention=mode, lag_embedding=False, lag_gate_fs=None)
    batch = start()
    assert difference(model(*batch, lags(10.0)), model(*batch, lags(3000.0))) > VISIBLE_A
    early, late = model(*batch, lags(100.0, 200.0)), model(*batch, lags(1100.0, 1200.0))
    assert difference(early, late) > VISIBLE_A


@pytest.mark.parametrize("mode", MODES)
def test_long_lags_keep_their_digits(mode):
    # 32 ps is 4000 rad: angles computed in float32 would differ by about 2e-4 rad here.
    model = randomised(time_attention=mode).double()
    batch = start()
    reference = model(*batch, lags(32_000.0)).float()
    single = model.float()(*batch, lags(32_000.0))
    assert difference(reference, single) < ROUNDING_A


@pytest.mark.parametrize("mode", MODES)
def test_zero_lag_is_the_start_state(mode):
    batch = start()
    predicted = randomised(time_attention=mode)(*batch, lags(0.0, 500.0))
    assert torch.equal(predicted[:, 0], batch.positions)


@every_quasi_variant
def test_the_whole_model_is_not_equivariant(variant):
    rotation = orthogonal(1, reflect=False).float()
    batch, times = start(), lags(100.0, 2000.0)
    model = randomised(**variant)
    turned = model(
        batch.positions @ rotation.T, batch.velocities @ rotation.T, batch.atomic_numbers, times
    )
    assert difference(turned, model(*batch, times) @ rotation.T) > VISIBLE_A


@every_variant
def test_every_input_matters(variant):
    batch, times = start(), lags(100.0, 2000.0)
    model = randomised(**variant)
    reference = model(*batch, times)
    positions, velocities, numbers = batch
    heavier = torch.where(numbers == 6, 7, 6)
    assert difference(model(positions, 2 * velocities, numbers, times), reference) > VISIBLE_A
    assert difference(model(positions, velocities, heavier, times), reference) > VISIBLE_A


def test_velocities_reverse_the_sign_of_nothing_by_accident():
    """A model blind to the velocities' direction would predict the same for v and -v."""
    batch, times = start(), lags(100.0)
    model = randomised()
    forward = model(*batch, times)
    backward = model(batch.positions, -batch.velocities, batch.atomic_numbers, times)
    assert difference(forward, backward) > VISIBLE_A


def test_untrained_model_starts_near_persistence():
    torch.manual_seed(0)
    batch = start(8, 6)
    moved = ATOM(config())(*batch, lags(100.0, 1000.0, n_samples=8)) - batch.positions[:, None]
    assert 0 < float(moved.square().mean().sqrt()) < 0.1


def test_rotations_are_proper_and_uniform():
    rotations = random_rotations(4000, generator=torch.Generator().manual_seed(0))
    identity = rotations @ rotations.transpose(1, 2)
    assert difference(identity, torch.eye(3).expand_as(identity)) < 1e-5
    assert difference(torch.linalg.det(rotations), torch.ones(4000)) < 1e-5
    # Means of all entries and of the squared trace, 0 and 1 for the Haar measure.
    assert float(rotations.mean(0).abs().max()) < 0.05
    trace = rotations.diagonal(dim1=1, dim2=2).sum(-1)
    assert float(trace.square().mean()) == pytest.approx(1.0, abs=0.08)


def test_equivariance_error_tells_equivariant_from_not():
    batch, times = ragged((5, 3)), lags(100.0, 500.0)

    def ballistic(positions, velocities, atomic_numbers, lags_fs):
        return positions[:, None] + velocities[:, None] * lags_fs[:, :, None, None]

    exact = quasi_equivariance(ballistic, *batch, times, n_rotations=8)
    assert exact.point < ROUNDING_A and exact.paper < ROUNDING_A

    def fixed_push(positions, velocities, atomic_numbers, lags_fs):
        return positions[:, None].repeat(1, lags_fs.shape[1], 1, 1) + torch.tensor([1.0, 0.0, 0.0])

    # || e - g e ||^2 = 2 - 2 cos, whose Haar mean is 2.
    generator = torch.Generator().manual_seed(0)
    pushed = quasi_equivariance(fixed_push, *batch, times, n_rotations=2000, generator=generator)
    assert pushed.point == pytest.approx(2**0.5, abs=0.05)
    assert pushed.paper == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, v, z, t: (x[:, :-1], v, z, t), "positions must be"),
        (lambda x, v, z, t: (x, v[:, :-1], z, t), "velocities"),
        (lambda x, v, z, t: (x, v, z, t[0]), "lags_fs must be"),
        (lambda x, v, z, t: (x, v, z + 97, t), "atomic_numbers"),
        (lambda x, v, z, t: (x, v, z, -t), "not negative"),
    ],
)
def test_wrong_input_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        randomised()(*change(*start(), lags(10.0)))
