"""What a submission states of its model: short texts and numbers, safe to print anywhere."""

from __future__ import annotations

from typing import Any

import h5py
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from benchmarks.submissions.safe_hdf5 import read_attribute
from tg80.errors import UserError

SUBMISSION = "submission"
_SHORTEST = 1e-6  # seconds that predicting all entries can have taken
_TEXT = r"^[A-Za-z0-9 .,;:+/()@_-]*$"


# Those of the cards of built-in models, which take seconds to import.
WORDS = {
    "labels": ("positions", "energies", "forces"),
    "inputs": (
        "positions", "velocities", "atomic_numbers", "lags", "molecule", "relaxed_structure",
    ),
}  # fmt: skip


class SubmissionCard(BaseModel):
    """The attributes of the group `submission`; descriptions say what to write."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    model: str = Field(
        pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$",
        max_length=40,
        description="at most 40 small letters, digits and single hyphens, such as my-net",
    )
    paper: str = Field(
        default="",
        pattern=r"^(https://[A-Za-z0-9._~:/?#@!$&*+,;=%-]{1,200})?$",
        description="an address that begins with https://, or leave it empty",
    )
    licence: str = Field(
        pattern=r"^[A-Za-z0-9.+() -]{1,60}$",
        description="the licence of the code by its SPDX name, such as MIT, or 'not published'",
    )
    labels: str = Field(
        min_length=1,
        description="what was learnt from, of positions, energies and forces, separated by commas; "
        "or none",
    )
    inputs: str = Field(
        default="",
        description="what a prediction is made from, such as positions,velocities,atomic_numbers,"
        "lags, or leave it empty",
    )
    hardware: str = Field(
        default="",
        pattern=_TEXT,
        max_length=100,
        description="a line in letters and digits, or leave it empty",
    )
    seed: int = Field(default=0, ge=0, le=2**31, description="a whole number from 0 on")
    n_parameters: int = Field(
        default=0, ge=0, le=10**13, description="a count of at most 1e13, or 0 where it is not told"
    )
    samples_seen: int = Field(default=0, ge=0, le=10**15, description="a count, or 0")
    training_cpu_seconds: float = Field(default=0.0, ge=0, le=1e12, description="seconds, or 0")
    training_gpu_seconds: float = Field(default=0.0, ge=0, le=1e12, description="seconds, or 0")
    prediction_seconds: float = Field(
        default=0.0, ge=0, le=1e12, description="seconds, at least 1e-6, or 0 where it is not told"
    )
    oracle: int = Field(
        default=0,
        ge=0,
        le=1,
        description="1 where test trajectories or the level of theory of the data were used, or 0",
    )

    @field_validator("labels", "inputs")
    @classmethod
    def _check_list(cls, value: str, info: Any) -> str:
        words = [word.strip() for word in value.split(",")] if value else []
        unknown = [word for word in words if word not in WORDS[info.field_name]]
        if unknown and words != ["none"]:
            raise ValueError(f"unknown word {unknown[0][:40]!r}")
        return ",".join(dict.fromkeys(words))

    @field_validator("prediction_seconds")
    @classmethod
    def _check_seconds(cls, value: float) -> float:
        if 0 < value < _SHORTEST:
            raise ValueError("no prediction is as fast")
        return value

    def words(self, field: str) -> tuple[str, ...]:
        """`labels` or `inputs` one by one; "none" is none."""
        return tuple(w for w in getattr(self, field).split(",") if w not in ("", "none"))


UNTOLD: dict[str, str | int | float] = {
    name: "" if field.is_required() else field.default
    for name, field in SubmissionCard.model_fields.items()
}
"""The attributes of a template that is not filled in."""


def read_submission_card(file: h5py.File) -> SubmissionCard:
    """Read the attributes of the group `submission`.

    Raises:
        UserError: one is missing, left empty, or not what it should be.
    """
    group = file[SUBMISSION]
    unknown = sorted(set(group.attrs) - set(UNTOLD))
    if unknown:
        raise UserError(f"{SUBMISSION} has no attribute {str(unknown[0])[:60]!r}; remove it")
    told = {name: read_attribute(group, name) for name in UNTOLD if name in group.attrs}
    for name, field in SubmissionCard.model_fields.items():
        if field.is_required() and told.get(name, "") == "":
            raise UserError(
                f"attribute {name!r} of {SUBMISSION} is not filled in; give {field.description}"
            )
        # A count that was written as 1e6 is one all the same.
        value = told.get(name)
        if field.annotation is int and isinstance(value, float) and value.is_integer():
            told[name] = int(value)
        if name == "oracle" and isinstance(value, bool):
            told[name] = int(value)
    try:
        card = SubmissionCard.model_validate(told)
    except ValidationError as error:
        name = str(error.errors()[0]["loc"][0])
        wanted = SubmissionCard.model_fields[name].description
        raise UserError(
            f"attribute {name!r} of {SUBMISSION} is {str(told[name])[:60]!r}; give {wanted}"
        ) from error
    seconds = card.training_cpu_seconds + card.training_gpu_seconds
    if card.words("labels") and not (seconds and card.samples_seen):
        raise UserError(
            f"{SUBMISSION} says that {card.model} learnt from {card.labels}, but not at "
            "what cost; give samples_seen, and training_cpu_seconds or training_gpu_seconds"
        )
    return card
