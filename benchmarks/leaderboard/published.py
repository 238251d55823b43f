"""Figures that other people printed: read, checked, and kept apart from what is measured here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from tg80.console import Table
from tg80.errors import UserError
from tg80.untrusted.documents import read_toml
from tg80.untrusted.tables import csv_table

FILE = Path(__file__).with_name("published.toml")
NOTICE = "As printed by their authors; not measured here, and not to be ranked with rows that were."


class PublishedTable(BaseModel):
    """One printed table.

    Attributes:
        column_kind: what the columns are. errors: row -> one number a column, NaN = none.
        source: where it was printed. protocol: how it was made. caveat: what to know before
            comparing it with anything.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", str_min_length=1)

    id: str
    title: str
    metric: str
    unit: Literal["A^2 x 1e-2", "1"]
    column_kind: Literal["molecule", "fold", "figure"]
    columns: tuple[str, ...] = Field(min_length=1)
    source: str
    protocol: str
    caveat: str
    errors: dict[str, tuple[float, ...]] = Field(min_length=1)

    @model_validator(mode="after")
    def _rows_fit_the_columns(self) -> Self:
        if len(set(self.columns)) < len(self.columns):
            raise ValueError("a column stands twice")
        for name, row in self.errors.items():
            if len(row) != len(self.columns):
                raise ValueError(f"{name}: {len(row)} numbers for {len(self.columns)} columns")
            if any(value <= 0 or math.isinf(value) for value in row):
                raise ValueError(f"{name}: errors are positive numbers")
        return self


def read_published(path: Path = FILE) -> list[PublishedTable]:
    """The published tables.

    Raises:
        UserError: the file cannot be read, or a table in it is not whole.
    """
    try:
        document = read_toml(path)
        tables = [PublishedTable.model_validate(table) for table in document["table"]]
    except KeyError as error:
        raise UserError(f"{path}: not a file of published figures ({error!r})") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise UserError(f"{path}: {place}: {first['msg']}") from error
    ids = [table.id for table in tables]
    if len(set(ids)) < len(ids):
        raise UserError(f"{path}: an id stands twice; ids are {', '.join(ids)}")
    return tables


def cell(value: float) -> str:
    """A figure as it was printed; a dash where there is none."""
    return "-" if math.isnan(value) else f"{value:.2f}"


def tables(found: Sequence[PublishedTable]) -> list[Table]:
    """The tables as text; source, protocol and caveat stand in the title."""
    return [
        Table(
            f"PUBLISHED, not measured here: {table.title} ({table.unit})\n"
            f"Source: {table.source}.\nProtocol: {table.protocol}.\nCaveat: {table.caveat}",
            ["as printed", *table.columns],
            [[name, *map(cell, row)] for name, row in table.errors.items()],
        )
        for table in found
    ]


def as_json(tables: Sequence[PublishedTable]) -> dict[str, Any]:
    """The tables as a JSON-able dictionary that says what they are; None where nothing stood."""
    documents = []
    for table in tables:
        document = table.model_dump(mode="json")
        document["errors"] = {
            name: [None if math.isnan(value) else value for value in row]
            for name, row in table.errors.items()
        }
        documents.append(document)
    return {"published": documents, "notice": NOTICE}


def as_csv(tables: Sequence[PublishedTable]) -> str:
    """One row a figure, what it was made by beside it."""
    heading = (
        "origin", "table", "row", "column_kind", "column", "metric", "value", "unit",
        "source", "protocol", "caveat",
    )  # fmt: skip
    rows = (
        ("published", table.id, name, table.column_kind, column, table.metric,
         value, table.unit, table.source, table.protocol, table.caveat)
        for table in tables
        for name, row in table.errors.items()
        for column, value in zip(table.columns, row, strict=True)
        if not math.isnan(value)
    )  # fmt: skip
    return csv_table(heading, rows)
