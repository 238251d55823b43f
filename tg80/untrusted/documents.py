"""JSON and TOML: read with an error that says where, written as every reader takes them.

JSON knows no NaN and no infinity. Read, they are refused; written, they become `null`.
"""

import json
import math
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from pydantic import BaseModel, ValidationError

from tg80.errors import UserError
from tg80.files import read_bytes, read_text

Model = TypeVar("Model", bound=BaseModel)


def parse_json(content: bytes | str, where: str) -> Any:
    """The value of a JSON text.

    Args:
        content: the text, in UTF-8 if it is bytes.
        where: the file or option that it is from, for the message.

    Raises:
        UserError: it is not JSON, holds NaN or infinity, or is nested too deeply.
    """
    return _parse(lambda: json.loads(content, parse_constant=_refuse), where, "JSON")


def parse_toml(text: str, where: str) -> dict[str, Any]:
    """The tables of a TOML text.

    Raises:
        UserError: it is not TOML, or nested too deeply.
    """
    return _parse(lambda: tomllib.loads(text), where, "TOML")


def read_toml(path: Path | str, wanted: str = "a TOML file") -> dict[str, Any]:
    """The tables of a TOML file.

    Raises:
        UserError: it cannot be read, is not TOML, or nested too deeply.
    """
    return parse_toml(read_text(path, wanted), str(path))


def read_json(path: Path | str, wanted: str = "a JSON file") -> Any:
    """The value of a JSON file.

    Raises:
        UserError: it cannot be read, is not JSON, holds NaN or infinity, or is nested too deeply.
    """
    return parse_json(read_bytes(path, wanted), str(path))


def parse_model(kind: type[Model], content: bytes | str, where: str) -> Model:
    """A JSON text as one of our models.

    Raises:
        UserError: it is not JSON, or a field is missing, unknown or of the wrong kind; the first.
    """
    parse_json(content, where)  # refuses what pydantic lets through
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        raise UserError(f"{where}: {first_fault(error)}") from None


def first_fault(error: ValidationError) -> str:
    """The first thing that pydantic objects to: the field and what is wrong with it."""
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    return f"{field}: {message}" if field else message


def to_json(value: Any, indent: int | None = None) -> str:
    """A JSON text; what is no finite number becomes `null`."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def print_json(value: Any, indent: int | None = None) -> None:
    """Print one JSON document on standard output, for `--json`."""
    print(to_json(value, indent))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _parse(action: Callable[[], Any], where: str, kind: str) -> Any:
    try:
        return action()
    except RecursionError:
        raise UserError(f"{where}: nested too deeply") from None
    except ValueError as error:  # also: not UTF-8, a number of thousands of digits
        raise UserError(f"{where}: not a {kind} file ({error})") from None


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not allowed in JSON")
