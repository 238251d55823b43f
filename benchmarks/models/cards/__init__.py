"""One record a model, for readers of a table: what it is, what it sees, how it is trained."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from benchmarks.interface import Equivariance
from tg80.errors import UserError
from tg80.untrusted.documents import first_fault, read_toml


class Paper(BaseModel):
    """Where a model was published."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str = Field(min_length=1)
    url: str = Field(pattern=r"^https://(arxiv\.org/abs|doi\.org)/\S+$")


class Recipe(BaseModel):
    """How a model that trains is trained."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    matched: str = Field(min_length=1, description="the default, at the budget that all share")
    published: str = Field(min_length=1, description="the preset that follows the paper")
    hardware: str = Field(min_length=1, description="that the default is meant for")
    seeds: tuple[int, ...] = Field(min_length=1, description="of the rows of this repository")


class Card(BaseModel):
    """The record of one model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")
    name: str = Field(min_length=1)
    summary: str = Field(min_length=1, max_length=200, description="one sentence")
    paper: Paper | None = None
    licence: str = Field(min_length=1, description="SPDX name of the licence of the code here")
    settings: str = Field(min_length=1, description="what settings it takes")
    inputs: tuple[
        Literal[
            "positions",
            "velocities",
            "atomic_numbers",
            "lags",
            "molecule",
            "relaxed_structure",
            "hessian",
        ],
        ...,
    ] = Field(min_length=1, description="what a prediction is made from")
    labels: tuple[Literal["positions", "velocities", "energies", "forces"], ...] = Field(
        description="of the training frames, that are learnt from"
    )
    equivariance: Equivariance
    trains: bool
    training: Recipe | None = None

    @model_validator(mode="after")
    def _check_training(self) -> Card:
        if self.trains != (self.training is not None):
            raise ValueError("a model has a training section if, and only if, it trains")
        if self.trains and not self.labels:
            raise ValueError("a model that trains names its labels")
        return self


def card_path(model_id: str) -> Path:
    """File of a model's card."""
    return Path(__file__).with_name(f"{model_id}.toml")


def read_card(model_id: str) -> Card:
    """The card of a registered model.

    Raises:
        UserError: there is none, or it does not fit the schema; the message says where.
    """
    path = card_path(model_id)
    if not path.exists():
        raise UserError(f"model {model_id} has no card; write {path.name}")
    try:
        card = Card.model_validate(read_toml(path))
    except ValidationError as error:
        raise UserError(f"{path.name}: {first_fault(error)}") from error
    if card.id != model_id:
        raise UserError(f"{path.name}: id is {card.id!r}, not the file's name")
    return card


class Carded:
    """A model whose card, if it has one, tells its `trains` and `equivariance`."""

    id: ClassVar[str]
    trains: ClassVar[bool]
    equivariance: ClassVar[Equivariance]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "id" in cls.__dict__ and card_path(cls.id).exists():
            card = read_card(cls.id)
            cls.trains, cls.equivariance = card.trains, card.equivariance
