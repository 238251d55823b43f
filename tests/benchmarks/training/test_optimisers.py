import pytest
import torch

from atom import ATOM, ATOMConfig
from benchmarks.training.optimisers import StackedMuon, make_optimizers, schedule
from benchmarks.training.trainer import TrainingSettings


def test_schedule():
    settings = TrainingSettings(warmup_fraction=0.1, final_rate_fraction=0.02)
    values = [schedule(i / 100, settings) for i in range(101)]
    assert values[0] == pytest.approx(0.01)
    assert max(values) == values[10] == 1.0
    assert values[-1] == pytest.approx(0.02)
    assert values[:11] == sorted(values[:11])
    assert values[10:] == sorted(values[10:], reverse=True)


def held(optimizer):
    """Weights by identity, each with the decay it gets."""
    return {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}


def test_every_weight_of_atom_is_in_one_optimiser_by_its_kind():
    module = ATOM(ATOMConfig.preset("mini", output_heads=2))
    names = dict(module.named_parameters())
    stacks = {name: p for name, p in names.items() if p.ndim == 3}
    assert stacks, "attention keeps its X and V weights as a stack"
    embedding = module.lifting.embedding.weight
    matrices = {n: p for n, p in names.items() if p.ndim == 2 and p is not embedding}

    muon, adamw = make_optimizers(module, TrainingSettings(optimizer="muon"))
    assert all(id(p) in held(muon) for p in matrices.values())
    assert len(held(muon)) == len(matrices) + sum(len(p) for p in stacks.values())
    rest = [p for n, p in names.items() if n not in matrices | stacks]
    assert held(adamw) == {id(p): 0.0 for p in rest} and id(embedding) in held(adamw)

    (only,) = make_optimizers(module, TrainingSettings())
    decayed = {*map(id, matrices.values()), *map(id, stacks.values())}
    assert held(only) == {id(p): 0.01 if id(p) in decayed else 0.0 for p in names.values()}


def test_muon_turns_every_matrix_of_a_stack_on_its_own():
    torch.manual_seed(0)
    stack = torch.nn.Parameter(torch.randn(2, 6, 4))
    alone = [torch.nn.Parameter(matrix.clone()) for matrix in stack.detach()]
    ours, theirs = StackedMuon([stack], lr=0.1), torch.optim.Muon(alone, lr=0.1)
    for _ in range(3):
        stack.grad = torch.randn(2, 6, 4)
        for matrix, grad in zip(alone, stack.grad, strict=True):
            matrix.grad = grad.clone()
        ours.step()
        theirs.step()
    torch.testing.assert_close(stack.detach(), torch.stack([p.detach() for p in alone]))
    # A weight without a gradient stays where it is.
    before = stack.detach().clone()
    stack.grad = None
    ours.step()
    assert torch.equal(stack.detach(), before)


def test_a_model_without_other_weights_has_muon_alone():
    module = torch.nn.Linear(3, 4, bias=False)
    (only,) = make_optimizers(module, TrainingSettings(optimizer="muon"))
    assert isinstance(only, StackedMuon)
    assert all("peak_rate" in group for group in only.param_groups)
