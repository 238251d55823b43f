"""The user's settings file: `~/.config/tg80/config.toml`.

`XDG_CONFIG_HOME` moves it as it moves those of other programs, `TG80_CONFIG` names another file.
"""

import os
import tomllib
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from tg80.errors import UserError


class Settings(BaseModel):
    """What the settings file may hold.

    `source` is where `tg80 download` takes the data from: a URL or a folder.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str | None = None


def settings_path() -> Path:
    """Where the settings file is looked for, whether or not it is there."""
    if named := os.environ.get("TG80_CONFIG"):
        return Path(named).expanduser()
    base = os.environ.get("XDG_CONFIG_HOME", "")
    # The XDG specification: a path that is not absolute is to be ignored.
    folder = Path(base) if os.path.isabs(base) else Path(os.path.expanduser("~/.config"))
    return folder / "tg80" / "config.toml"


def read_settings() -> Settings:
    """The user's settings; all at their defaults if there is no file.

    Raises:
        UserError: it is not valid or cannot be read, or `TG80_CONFIG` names one that is missing.
    """
    path = settings_path()
    try:
        return Settings.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        if os.environ.get("TG80_CONFIG"):
            raise UserError(f"{path}: no such file, but TG80_CONFIG names it") from None
        return Settings()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        known = ", ".join(Settings.model_fields)
        raise UserError(f"{path}: {key}: {first['msg']}; keys are {known}") from None
    except ValueError as error:  # no TOML, or not UTF-8
        raise UserError(f"{path}: not a TOML file: {error}") from None
