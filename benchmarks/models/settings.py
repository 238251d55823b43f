"""Settings from the command line: `--set a.b=c` and pydantic's complaints in one line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from tg80.errors import UserError
from tg80.untrusted.documents import parse_json

Settings = TypeVar("Settings", bound=BaseModel)


def parse_settings(kind: type[Settings], values: Mapping[str, Any], prefix: str = "") -> Settings:
    """A settings object of `kind`.

    Raises:
        UserError: a name is unknown or a value does not fit; the message names the first.
    """
    try:
        return kind(**values)
    except ValidationError as error:
        first = error.errors()[0]
        name = prefix + ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise UserError(f"unknown setting {name}") from None
        raise UserError(f"setting {name.rstrip('.') or 'model'}: {first['msg']}") from None


def parse_overrides(pairs: Iterable[str], option: str = "--set") -> dict[str, Any]:
    """`["a.b=1", "c=x"]` as nested dictionaries; values are JSON where they can be, else text.

    Args:
        pairs: texts such as `a.b=1`.
        option: name of the option, for messages.

    Raises:
        UserError: no `=`, an empty name, or two settings that contradict.
    """
    result: dict[str, Any] = {}
    for pair in pairs:
        name, found, text = pair.partition("=")
        keys = name.strip().split(".")
        if not found or not all(keys):
            example = "training.batch_size=8"
            raise UserError(f"{option} wants NAME=VALUE such as {example}, not {pair!r}")
        try:
            value = parse_json(text, option)
        except UserError:
            value = text
        place = result
        for key in keys[:-1]:
            place = place.setdefault(key, {})
            if not isinstance(place, dict):
                raise UserError(f"{option} {pair}: {key} was set to a value before")
        place[keys[-1]] = value
    return result
