"""The fast forms of norm, rotation, product and attention against the plain ones."""

import pytest
import torch
from torch.nn.functional import rms_norm

from atom.config import ATOMConfig
from atom.layers import masks
from atom.layers.blocks import EPSILON, root_mean_square_norm
from atom.layers.lifting import Lifting
from atom.layers.masks import attend, attention_reach
from atom.layers.rope import Rotation, interleave_pairs, rotate, time_rotation
from tests.atom.cases import EXACT, difference


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def test_norm_and_its_gradient():
    features = random(3, 4, 8).requires_grad_()
    assert (
        difference(root_mean_square_norm(features), rms_norm(features, (8,), eps=EPSILON)) < EXACT
    )
    assert torch.autograd.gradcheck(root_mean_square_norm, (features,))
    zero = torch.zeros(2, 8, dtype=torch.float64, requires_grad=True)
    root_mean_square_norm(zero).sum().backward()
    assert zero.grad is not None and torch.isfinite(zero.grad).all()


def test_pairs_turn_as_real_numbers_do():
    heads, times = random(2, 3, 5, 4, 8), torch.tensor([[0.0, 10.0, 300.0]] * 2)
    rotation = time_rotation(times, 8, 8.0, 1e4, torch.float64)
    turned = rotate(heads, rotation).unflatten(-1, (-1, 2))
    first, second = heads.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = (t[:, :, None, None] for t in rotation)
    assert difference(turned[..., 0], first * cos - second * sin) < EXACT
    assert difference(turned[..., 1], second * cos + first * sin) < EXACT
    back = rotate(turned.flatten(-2), rotation.inverse())
    assert difference(back, heads) < EXACT
    # Where complex numbers do not serve, as in half precision, real ones do the same.
    half = rotate(heads.bfloat16(), Rotation(*(t.float() for t in rotation)))
    assert half.dtype == torch.bfloat16
    assert difference(half.double(), turned.flatten(-2)) < 0.1


def test_reordered_pairs_leave_logits_alone():
    query, key = random(2, 6, 16), random(2, 6, 16, seed=1)
    reordered = [interleave_pairs(t, 2).unflatten(-1, (2, 8)) for t in (query, key)]
    plain = [t.unflatten(-1, (2, 8)) for t in (query, key)]
    assert difference((reordered[0] * reordered[1]).sum(-1), (plain[0] * plain[1]).sum(-1)) < EXACT
    # Channel k of a head stands beside k + 4.
    order = interleave_pairs(torch.arange(16.0), 2).tolist()
    assert order[:4] == [0, 4, 1, 5] and order[8:12] == [8, 12, 9, 13]


@pytest.mark.parametrize("n_softmaxes", [1, 2, 3])
@pytest.mark.parametrize("bias", [None, "by key", "by pair"])
@pytest.mark.parametrize("few_keys", [0, 10**6], ids=["fused", "written out"])
def test_attention_is_a_sum_of_softmaxes(monkeypatch, n_softmaxes, bias, few_keys):
    monkeypatch.setattr(masks, "FEW_KEYS", few_keys)
    n_keys = 7
    query = random(2, 5, 4, 8)
    key, value = (
        random(2, n_softmaxes * n_keys, 4, 8, seed=1),
        random(2, n_softmaxes * n_keys, 4, 6),
    )
    term = None
    if bias is not None:
        term = torch.zeros(2, 1, 1 if bias == "by key" else 5, n_keys, dtype=torch.float64)
        term[0, ..., -2:] = float("-inf")
        term[1, :, -1, 0] = float("-inf")
    expected = torch.zeros(2, 5, 4, 6, dtype=torch.float64)
    for f in range(n_softmaxes):
        span = slice(f * n_keys, (f + 1) * n_keys)
        logits = torch.einsum("bqhc,bkhc->bhqk", query, key[:, span])
        weights = (logits if term is None else logits + term).softmax(-1)
        expected += torch.einsum("bhqk,bkhc->bqhc", weights, value[:, span])
    assert difference(attend(query, key, value, n_softmaxes, term), expected) < EXACT


def test_a_whole_batch_needs_no_mask():
    real, valid = torch.ones(2, 3, dtype=torch.bool), torch.ones(2, 4, dtype=torch.bool)
    assert attention_reach(real, valid, None, torch.float32) == (None, None)
    for atoms, lags in ((real.clone(), valid), (real, valid.clone())):
        (atoms if lags is valid else lags)[1, -1] = False
        found = attention_reach(atoms, lags, None, torch.float32)
        assert found.atoms is not None and found.states is not None
        assert found.atoms.shape == (2, 1, 1, 3) and found.states.shape == (2, 1, 1, 12)


def test_coupling_is_e3nns_tensor_product():
    torch.manual_seed(0)
    lifting = Lifting(ATOMConfig(width=32, n_heads=2)).double()
    first, second = random(2, 5, 32).requires_grad_(), random(2, 5, 32, seed=1)
    by_e3nn = lifting.couple(first, second)
    assert difference(lifting._product(first, second), by_e3nn) < EXACT
    assert float(by_e3nn.detach().abs().max()) > 0.1
