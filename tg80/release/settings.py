"""The user's settings file: `~/.config/tg80/config.toml`.

`XDG_CONFIG_HOME` moves it as it moves those of other programs, `TG80_CONFIG` names another file.
"""

import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from tg80.errors import UserError
from tg80.untrusted.documents import read_toml


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
    path, is_named = settings_path(), bool(os.environ.get("TG80_CONFIG"))
    if not is_named and not os.path.lexists(path):
        return Settings()
    wanted = "a TOML file" + (", or unset TG80_CONFIG" if is_named else "")
    try:
        return Settings.model_validate(read_toml(path, wanted))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        known = ", ".join(Settings.model_fields)
        raise UserError(f"{path}: {key}: {first['msg']}; keys are {known}") from None
