"""Loss, label noise, gradients, checkpoints, settings."""

import copy
import json
import math
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from atom import ATOM, ATOMConfig, CheckpointError
from atom.loss import masked_loss
from tests.atom.cases import (
    HEADS,
    MODES,
    ROUNDING_A,
    STRICT,
    VARIANTS,
    config,
    difference,
    lags,
    ragged,
    randomised,
    start,
)

DATA = Path(__file__).parents[1] / "data"

NAN = float("nan")


def trainable(**overrides) -> ATOM:
    """A randomised model of its own, free to be trained."""
    model = ATOM(config(**overrides))
    model.load_state_dict(randomised(**overrides).state_dict())
    return model


def problem(sizes=(5, 3), seed=0):
    batch = ragged(sizes, seed)
    times = torch.tensor([[100.0, 900.0, NAN], [50.0, 400.0, 3000.0]])
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(2, 3, max(sizes), 3, generator=generator)
    return batch, times, batch.positions[:, None] + 0.2 * noise


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("case", ["moving", "still", "at the centre", "alone", "absolute"])
def test_gradients_are_finite_and_reach_everything(mode, heads, case):
    output = "absolute" if case == "absolute" else "displacement"
    model = randomised(time_attention=mode, output_heads=heads, output=output)
    batch, times, targets = problem((5, 1) if case == "alone" else (5, 3))
    positions, velocities, numbers = batch
    if case == "still":
        velocities = torch.zeros_like(velocities)
    if case == "at the centre":
        positions = torch.zeros_like(positions)
    targets[0, 2] = NAN  # what stands at padding must not matter
    targets[1, :, -1] = NAN
    positions.requires_grad_(), velocities.requires_grad_()
    wanted = dict(model.named_parameters()) | {"positions": positions, "velocities": velocities}
    loss = model.training_loss(positions, velocities, numbers, times, targets)
    gradients = torch.autograd.grad(loss, list(wanted.values()), allow_unused=True)
    for name, gradient in zip(wanted, gradients, strict=True):
        assert gradient is not None, name
        assert torch.isfinite(gradient).all(), name
        if case == "moving":
            assert gradient.abs().max() > 0, name


@pytest.mark.parametrize("variant", [*VARIANTS, *STRICT], ids=str)
def test_every_weight_of_every_variant_is_trained(variant):
    model = randomised(**variant)
    batch, times, targets = problem()
    names, parameters = zip(*model.named_parameters(), strict=True)
    # Not `backward`, which would leave its gradients in the shared model.
    loss = model.training_loss(*batch, times, targets)
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    for name, gradient in zip(names, gradients, strict=True):
        assert gradient is not None, name
        assert torch.isfinite(gradient).all() and gradient.abs().max() > 0, name


def test_loss_is_the_mean_square_per_molecule():
    quiet = randomised(sigma_positions=0.0, sigma_velocities=0.0)
    batch, times, targets = problem()
    score = batch.atomic_numbers > 6
    loss = quiet.training_loss(*batch, times, targets, score)
    predicted = quiet(*batch, times)
    by_hand = []
    for i in range(2):
        kept = ~times[i].isnan()
        if score[i].any():
            error = predicted[i][kept][:, score[i]] - targets[i][kept][:, score[i]]
            by_hand.append(error.square().mean())
    assert len(by_hand) > 0
    assert float(loss) == pytest.approx(float(sum(by_hand)) / len(by_hand), rel=1e-5)


def test_the_root_is_taken_at_each_lag():
    predicted = torch.zeros(2, 2, 2, 3)
    targets = torch.zeros_like(predicted)
    # Sample 0: 0.1 A on every coordinate at lag 0, 0.5 A at lag 1; sample 1: its lag 1 is padding.
    targets[0, 0], targets[0, 1], targets[1, 0] = 0.1, 0.5, 0.3
    targets[1, 1] = torch.nan
    scored = torch.ones(2, 2, dtype=torch.bool)
    valid = torch.tensor([[True, True], [True, False]])
    roots = masked_loss(predicted, targets, scored, valid, kind="rmse")
    assert float(roots) == pytest.approx(((0.1 + 0.5) / 2 + 0.3) / 2, rel=1e-3)
    nothing = masked_loss(predicted, targets, scored & False, valid, kind="rmse")
    assert float(nothing) == 0.0
    exact = predicted.clone().requires_grad_()
    masked_loss(exact, torch.zeros_like(exact), scored, valid, kind="rmse").backward()
    assert exact.grad is not None and bool(exact.grad.isfinite().all())


def test_lag_weights_choose_lags():
    quiet = randomised(sigma_positions=0.0, sigma_velocities=0.0)
    batch, _, targets = problem()
    times = lags(50.0, 400.0, 3000.0)
    weighted = quiet.training_loss(
        *batch, times, targets, lag_weights=torch.tensor([0.0, 2.0, 0.0])
    )
    only = times.clone()
    only[:, [0, 2]] = NAN
    real = (batch.atomic_numbers > 0)[..., None]
    error = (quiet(*batch, times)[:, 1] - targets[:, 1]).square() * real
    expected = (error.sum((1, 2)) / (3 * real.sum((1, 2)))).mean()
    assert float(weighted) == pytest.approx(float(expected), rel=1e-5)


def test_nothing_scored_is_zero_not_nan():
    batch, times, targets = problem()
    none = torch.zeros_like(batch.atomic_numbers, dtype=torch.bool)
    assert float(randomised().training_loss(*batch, times, targets, none)) == 0.0


def test_padding_leaves_the_loss_alone():
    quiet = randomised(sigma_positions=0.0, sigma_velocities=0.0)
    batch, times, targets = problem((4, 4))
    loss = quiet.training_loss(*batch, times, targets)
    pad = torch.nn.functional.pad
    wider = [pad(t, (0, 0, 0, 2)) for t in (batch.positions, batch.velocities)]
    padded = quiet.training_loss(
        *wider,
        pad(batch.atomic_numbers, (0, 2)),
        pad(times, (0, 1), value=NAN),
        pad(targets, (0, 0, 0, 2, 0, 1), value=NAN),
    )
    assert float(padded) == pytest.approx(float(loss), rel=1e-5)


@pytest.mark.parametrize(
    ("noise", "is_random"),
    [
        ({"sigma_positions": 0.0, "sigma_velocities": 0.0}, False),
        ({"sigma_positions": 0.0, "sigma_velocities": 0.1}, True),
        ({"sigma_positions": 0.1, "sigma_velocities": 0.0, "target_noise": False}, True),
        ({"sigma_positions": 0.1, "sigma_velocities": 0.0, "target_noise": True}, True),
    ],
)
def test_label_noise_is_drawn_from_the_generator_in_training_only(noise, is_random):
    model = randomised(**noise)
    batch, times, targets = problem()

    def loss(seed):
        generator = torch.Generator().manual_seed(seed)
        return float(model.training_loss(*batch, times, targets, generator=generator).detach())

    assert loss(1) == loss(1)
    assert (loss(1) != loss(2)) is is_random
    model.train()
    assert torch.equal(model(*batch, times), model(*batch, times))
    model.eval()


def test_each_noise_does_what_it_says():
    """Seen from inside: what reaches the model, and how far the targets move."""
    sigma_x, sigma_v = 0.2, 0.1
    batch = start(40, 8)
    times = lags(100.0, n_samples=40)
    targets = batch.positions[:, None].clone()
    seen = {}

    class Spy(ATOM):
        def forward(self, positions, velocities, atomic_numbers, lags_fs, *clean):
            seen.update(positions=positions, velocities=velocities, walk=clean[0])
            return batch.positions[:, None]

    for noise_on_targets in (True, False):
        model = Spy(
            config(sigma_positions=sigma_x, sigma_velocities=sigma_v, target_noise=noise_on_targets)
        )
        generator = torch.Generator().manual_seed(0)
        loss = float(model.training_loss(*batch, times, targets, generator=generator))
        expected = sigma_x**2 if noise_on_targets else 0.0
        assert loss == pytest.approx(expected, rel=0.15)
        shaken = (seen["positions"] - batch.positions).std()
        assert float(shaken) == pytest.approx(sigma_x, rel=0.1)
        # Relative to sqrt(kT/m) of each element: hydrogen is shaken most.
        for number, mass in ((1, 1.008), (16, 32.06)):
            of_element = batch.atomic_numbers == number
            spread = (seen["velocities"] - batch.velocities)[of_element].std()
            thermal = math.sqrt(8.617333262e-5 * 300 / (mass * 103.642697))
            assert float(spread) == pytest.approx(sigma_v * thermal, rel=0.15)
        from atom import bonded_pairs, random_walk_encoding

        bonds = bonded_pairs(batch.positions, batch.atomic_numbers)
        assert torch.equal(seen["walk"], random_walk_encoding(bonds, 16))


def test_walk_encoding_can_be_given():
    model, batch = randomised(), start()
    given = torch.rand(2, 5, 16)
    from atom import bonded_pairs, random_walk_encoding

    own = random_walk_encoding(bonded_pairs(batch.positions, batch.atomic_numbers), 16)
    reference = model(*batch, lags(100.0))
    assert torch.equal(model(*batch, lags(100.0), walk_encoding=own), reference)
    assert not torch.equal(model(*batch, lags(100.0), walk_encoding=given), reference)


def test_training_beats_persistence_on_a_rule():
    """Atoms that fly straight on: the loss must fall far below that of standing still."""
    torch.manual_seed(0)
    model = ATOM(config(sigma_positions=0.0, sigma_velocities=0.0))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    batch, times = start(16, 4), lags(10.0, 20.0, 40.0, n_samples=16)
    targets = batch.positions[:, None] + batch.velocities[:, None] * times[..., None, None]
    persistence = float((targets - batch.positions[:, None]).square().mean())
    for _ in range(30):
        optimizer.zero_grad()
        loss = model.training_loss(*batch, times, targets)
        loss.backward()
        optimizer.step()
    assert float(loss) < 0.5 * persistence


def test_deterministic_given_the_seed():
    outputs = []
    for _ in range(2):
        torch.manual_seed(5)
        outputs.append(ATOM(config())(*start(), lags(100.0)))
    assert torch.equal(*outputs)


@pytest.mark.parametrize("variant", [*VARIANTS, *STRICT], ids=str)
def test_checkpoint_round_trip_is_identical(tmp_path, variant):
    model = randomised(**variant)
    path = tmp_path / "model.safetensors"
    model.save(path)
    loaded = ATOM.from_checkpoint(path)
    assert loaded.config == model.config
    assert loaded.state_dict().keys() == model.state_dict().keys()
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name
    # Where numbers lie in memory may change the last bit of a product.
    expected = model(*start(), lags(10.0, 3e3))
    torch.testing.assert_close(loaded(*start(), lags(10.0, 3e3)), expected, rtol=0, atol=1e-5)
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


@pytest.mark.parametrize("variant", [{}, STRICT[0]], ids=str)
def test_a_copy_is_a_model_of_its_own(variant):
    model = trainable(**variant).double().eval()
    model.decoder.blocks[0].attention.gamma.requires_grad_(False)
    state = torch.get_rng_state()
    twin = copy.deepcopy(model)
    assert torch.equal(torch.get_rng_state(), state)
    assert not twin.training and not twin.decoder.blocks[0].attention.gamma.requires_grad
    assert torch.equal(twin(*start(), lags(100.0)), model(*start(), lags(100.0)))
    with torch.no_grad():
        twin.lifting.embedding.weight.mul_(2.0)
    assert not torch.equal(twin(*start(), lags(100.0)), model(*start(), lags(100.0)))


@pytest.mark.parametrize("mode", MODES)
def test_checkpoints_of_the_first_version_predict_as_they_did(mode):
    """Written before there were other attentions, liftings and symmetries."""
    model = ATOM.from_checkpoint(DATA / f"atom_first_{mode}.safetensors")
    expected = torch.tensor(json.loads((DATA / "atom_first.json").read_text())[mode])
    predicted = model(*start(1, 4), lags(50.0, 700.0, n_samples=1))
    assert difference(predicted.view(-1, 3), expected) < ROUNDING_A


def test_bad_checkpoints_are_named(tmp_path):
    path = tmp_path / "model.safetensors"
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        ATOM.from_checkpoint(path)
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(CheckpointError, match="not a readable checkpoint"):
        ATOM.from_checkpoint(path)
    save_file({"w": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match="not an ATOM checkpoint"):
        ATOM.from_checkpoint(path)
    trainable().save(path)
    tensors = load_file(path)
    header = {"atom_format": "1", "atom_config": config(width=64).model_dump_json()}
    save_file(tensors, path, metadata=header)
    with pytest.raises(CheckpointError, match="do not fit"):
        ATOM.from_checkpoint(path)
    header["atom_config"] = json.dumps({"no_such_setting": 1})
    save_file(tensors, path, metadata=header)
    with pytest.raises(CheckpointError, match="settings"):
        ATOM.from_checkpoint(path)


@pytest.mark.parametrize(
    ("preset", "low", "high"),
    [("paper", 4e6, 8e6), ("public", 6e5, 9.5e5), ("mini", 1e5, 4e5)],
)
def test_presets_have_their_size(preset, low, high):
    assert low < ATOM(ATOMConfig.preset(preset)).n_parameters < high


def test_settings_are_frozen_and_closed():
    settings = ATOMConfig.preset("mini", time_attention="start")
    assert settings.time_attention == "start" and settings.head_width == 16
    with pytest.raises(ValidationError):
        settings.width = 3
    with pytest.raises(ValidationError, match="no_such"):
        ATOMConfig(no_such=1)
    with pytest.raises(ValueError, match="multiple of 4 \* n_heads"):
        ATOMConfig(width=30, n_heads=1)
    with pytest.raises(ValueError, match="feedforward_width"):
        ATOMConfig(feedforward_width=30)
    with pytest.raises(ValueError, match="unknown ATOM preset 'tiny'"):
        ATOMConfig.preset("tiny")
