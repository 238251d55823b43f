"""What can be taken out of ATOM, or put in another's place, by one word."""

from __future__ import annotations

from typing import Any, NamedTuple


class Ablation(NamedTuple):
    """One change to the model.

    Attributes:
        overrides: the settings that differ.
        description: one line saying why its forward differs.
    """

    overrides: dict[str, Any]
    description: str


ABLATIONS: dict[str, Ablation] = {
    "no-lifting": Ablation(
        {"lifting": "linear", "pair_layers": 0},
        "X, V and Z are a plain linear layer of all inputs: nothing is equivariant, and the tensor "
        "product and the messages between pairs are gone",
    ),
    "no-pairs": Ablation(
        {"pair_layers": 0},
        "each atom is lifted by itself: distances reach Z through attention over coordinates only",
    ),
    "no-flight": Ablation(
        {"output": "displacement"},
        "vectors are added to the start position: the first femtoseconds are to be learnt as well",
    ),
    "strictly-equivariant": Ablation(
        {"symmetry": "strict"},
        "every block is an equivariant e3nn network: the prediction turns with its input exactly",
    ),
    "standard-attention": Ablation(
        {"attention": "standard"},
        "one softmax over the keys of Z: X acts through Z alone, and V is not lifted",
    ),
    "no-rope": Ablation(
        {"rope": "none"}, "queries and keys are not turned: attention is blind to time differences"
    ),
    "index-rope": Ablation(
        {"rope": "index"},
        "queries and keys turn with the step's rank: stretching all lags changes no angle",
    ),
    "start": Ablation(
        {"time_attention": "start"},
        "a step attends to the start state and itself: other lags do not matter",
    ),
    "joint": Ablation(
        {"time_attention": "joint"},
        "a step attends to the start state and all steps: the other lags matter",
    ),
    "no-input-noise": Ablation(
        {"input_noise": False}, "training sees the start state as it is; targets keep their noise"
    ),
    "no-target-noise": Ablation(
        {"target_noise": False}, "training sees the targets as they are; the start keeps its noise"
    ),
    "no-random-walk": Ablation(
        {"walk_encoding": False}, "the lifting reads no walk encoding: bonds do not matter"
    ),
    "no-value-residual": Ablation(
        {"value_residual": False}, "a block's values are its own, not mixed with the first block's"
    ),
    "gat": Ablation(
        {"attention": "gat"},
        "GATv2 along the bonds: in L blocks an atom hears of those L bonds away, of no others",
    ),
}
