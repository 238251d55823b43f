"""All settings of ATOM, frozen, with the named sizes."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

# In all of them the lifted features describe the start state, so their keys stand at its time. The
# field's own default is what checkpoints mean that were written before there was a choice.
PRESETS: dict[str, dict[str, Any]] = {
    # The size of the paper.
    "paper": {
        "n_blocks": 6,
        "width": 256,
        "n_heads": 8,
        "feedforward_width": 512,
        "lifted_keys": "start",
    },
    # The size of the published code, for timing side by side. The narrow feed-forward keeps the
    # number of parameters near that code's, although each block has keys and values for three
    # features.
    "public": {
        "n_blocks": 5,
        "width": 128,
        "n_heads": 8,
        "feedforward_width": 24,
        "lifted_keys": "start",
    },
    # Trains in minutes on one CPU core: what the paper leaves to attention is told to it.
    "mini": {
        "n_blocks": 2,
        "width": 64,
        "n_heads": 4,
        "feedforward_width": 128,
        "lifted_keys": "start",
        "pair_layers": 2,
        "output": "flight",
    },
}

# Settings that checkpoints and records hold and that are gone, with what the model does now.
RETIRED: dict[str, Any] = {"equivariant_start": False}


class ATOMConfig(BaseModel):
    """Settings of one ATOM model; unknown names are refused.

    ``docs/model/atom.md`` has the equations.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    n_blocks: int = Field(default=5, ge=1, description="number of attention blocks L")
    width: int = Field(
        default=128, ge=8, description="width d: d/4 scalars and d/4 vectors an atom"
    )
    n_heads: int = Field(default=8, ge=1, description="attention heads; d_head = width / n_heads")
    feedforward_width: int = Field(default=96, ge=1, description="hidden width of SwiGLU")

    symmetry: Literal["quasi", "strict"] = Field(
        default="quasi",
        description="blocks are free to break the symmetry, or equivariant under O(3) themselves",
    )
    lifting: Literal["equivariant", "linear"] = Field(
        default="equivariant",
        description="lift the inputs by e3nn layers, or by one plain linear layer",
    )
    walk_encoding: bool = Field(default=True, description="lift the random-walk encoding as well")
    pair_layers: int = Field(
        default=0,
        ge=0,
        description="rounds of messages between near atoms in the lifting; 0: each atom by itself",
    )
    pair_cutoff_angstrom: float = Field(
        default=6.0, gt=1, description="with pair_layers: messages reach this far, A"
    )
    attention: Literal["heterogeneous", "standard", "gat"] = Field(
        default="heterogeneous",
        description="softmaxes over X, V and Z, over Z alone, or GATv2 along a graph",
    )
    graph_radius_angstrom: float | None = Field(
        default=None, gt=0, description="with gat: edges up to this distance, A; None: the bonds"
    )
    lifted_keys: Literal["steps", "start"] = Field(
        default="steps",
        description="where the keys of X and V stand in time: at every state, or at the start",
    )
    time_attention: Literal["joint", "start"] = Field(
        default="joint",
        description="what a step attends to beside the start state: all steps, or only itself",
    )
    neighbours: Literal["all", "bonded"] = Field(
        default="all",
        description="which atoms attend to each other: all pairs, or bonded pairs only",
    )
    value_residual: bool = Field(
        default=True, description="mix each block's values with the first's"
    )
    rope: Literal["time", "index", "none"] = Field(
        default="time",
        description="what turns queries and keys: the time, the step's rank, nothing",
    )
    rope_tau_fs: float = Field(default=8.0, gt=0, description="time unit tau of T-RoPE, fs")
    rope_base: float = Field(
        default=10_000.0, gt=1, description="ratio that spreads the frequencies"
    )
    lag_embedding: bool = Field(
        default=True,
        description="add a learned function of the lag, zero at lag 0, to the step tokens",
    )

    output: Literal["displacement", "flight", "absolute", "modes", "steps"] = Field(
        default="displacement",
        description="vector is added to the start position, to free flight from it, to the "
        "centre of mass, or to motion by the molecule's own force constants: in its normal modes, "
        "or step by step (in training mode in its modes, which can be differentiated)",
    )
    modes_width: int = Field(
        default=64,
        ge=1,
        description="with output = modes or steps: features that force constants come from",
    )
    modes_rounds: int = Field(
        default=2, ge=0, description="with output = modes or steps: messages along the bonds"
    )
    flight_fs: float = Field(
        default=15.0,
        gt=0,
        description="with output = flight: velocities die away as exp(-lag / flight_fs)",
    )
    output_heads: int = Field(default=1, ge=1, description="number K of mixed output projections")
    lag_gate_fs: float | None = Field(
        default=20.0,
        gt=0,
        description="displacements are multiplied by 1 - exp(-lag / lag_gate_fs); None: by 1",
    )

    lag_gate_power: Literal[1, 2] = Field(
        default=1,
        description="of that gate; with 2, flight, modes and steps leave the start with its "
        "velocities exactly",
    )

    normalise_lifted: bool = Field(
        default=True, description="RMSNorm on X and V in front of each attention, as on Z"
    )

    walk_steps: int = Field(
        default=16, ge=1, description="longest walk of the random-walk encoding"
    )
    bond_factor: float = Field(
        default=1.25, gt=0, description="bonded if d < factor * (sum of covalent radii)"
    )
    position_scale_angstrom: float = Field(
        default=2.0, gt=0, description="unit of the lifted positions, A"
    )
    temperature_k: float = Field(
        default=300.0, gt=0, description="temperature of the thermal velocity sqrt(kT/m), K"
    )

    sigma_positions: float = Field(
        default=0.01, ge=0, description="label noise on positions in training, A; 0 switches it off"
    )
    sigma_velocities: float = Field(
        default=0.01, ge=0, description="label noise on velocities in training, thermal velocities"
    )
    input_noise: bool = Field(
        default=True, description="noise on the start positions and velocities in training"
    )
    target_noise: bool = Field(
        default=True, description="independent noise of sigma_positions on each target as well"
    )

    @model_validator(mode="before")
    @classmethod
    def _drop_retired(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return {k: v for k, v in values.items() if k not in RETIRED or v != RETIRED[k]}

    @model_validator(mode="after")
    def _check_widths(self) -> ATOMConfig:
        if self.width % (4 * self.n_heads):
            raise ValueError(
                f"width must be a multiple of 4 * n_heads (each head holds as many scalars as "
                f"vectors): {self.width}, {self.n_heads}"
            )
        if self.feedforward_width % 4:
            raise ValueError(f"feedforward_width must be a multiple of 4: {self.feedforward_width}")
        return self

    @model_validator(mode="after")
    def _check_parts(self) -> ATOMConfig:
        if self.symmetry == "strict":
            if self.lifting != "equivariant":
                raise ValueError("symmetry = strict goes with lifting = equivariant only")
            if self.attention == "gat":
                raise ValueError("symmetry = strict does not go with attention = gat")
        if self.moves and self.symmetry == "strict":
            raise ValueError(f"output = {self.output} does not go with symmetry = strict")
        if self.pair_layers and self.lifting != "equivariant":
            raise ValueError("pair_layers go with lifting = equivariant only")
        if self.graph_radius_angstrom is not None and self.attention != "gat":
            raise ValueError("graph_radius_angstrom goes with attention = gat only")
        return self

    @property
    def moves(self) -> bool:
        """Whether vectors are added to motion by the molecule's own force constants."""
        return self.output in ("modes", "steps")

    @property
    def has_lifted(self) -> bool:
        """Whether X and V have softmaxes of their own."""
        return self.attention != "standard"

    @property
    def scales_lifted(self) -> bool:
        """Whether blocks multiply the normalised X and V by gains."""
        return self.normalise_lifted and self.has_lifted

    @property
    def head_width(self) -> int:
        """Width d_head of one attention head."""
        return self.width // self.n_heads

    @property
    def multiplicity(self) -> int:
        """Number of scalars, and of vectors, a lifted feature holds: width / 4."""
        return self.width // 4

    @property
    def block_multiplicity(self) -> int:
        """Number of scalars, and of vectors, that Z holds in the blocks.

        An equivariant layer of the same width has an eighth of a plain one's weights, so that
        strict blocks are about 3.5 times as wide: then the parameters agree to a few percent.
        Each head holds whole pairs of scalars, which T-RoPE turns.
        """
        if self.symmetry == "quasi":
            return self.multiplicity
        pairs_of_heads = max(1, round(3.5 * self.multiplicity / (2 * self.n_heads)))
        return 2 * self.n_heads * pairs_of_heads

    @classmethod
    def preset(cls, name: str, **overrides: Any) -> ATOMConfig:
        """Settings of a named size.

        Args:
            name: ``paper``, ``public`` or ``mini``.
            **overrides: settings that differ from the preset.

        Raises:
            ValueError: if there is no such preset.
        """
        if name not in PRESETS:
            raise ValueError(f"unknown ATOM preset {name!r}: use one of {', '.join(PRESETS)}")
        return cls(**{**PRESETS[name], **overrides})
