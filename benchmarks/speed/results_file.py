"""Results written one by one, so that a long measurement that was killed goes on."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.speed.timing import machine
from tg80.errors import UserError
from tg80.files import write_atomically
from tg80.untrusted.documents import read_json


class ResultsFile:
    """A JSON document of finished measurements by key; without a path it lives in memory alone.

    Args:
        path: the file, or None.
        command: which measurement it is of.
        settings: what decides the results; a file with other settings is refused.

    Attributes:
        document: `command`, `settings`, `machine` and `results` by key.

    Raises:
        UserError: the file is of another command, of other settings or of another machine.
        CorruptFile: it is no such file.
    """

    def __init__(self, path: Path | None, command: str, settings: dict[str, Any]):
        self._path = path
        self.document: dict[str, Any] = {
            "command": command, "settings": settings, "machine": machine(), "results": {},
        }  # fmt: skip
        if path is None or not path.exists():
            return
        found = read_document(path, command)
        if found["settings"] != settings:
            raise UserError(f"{path}: holds results of other settings; give another --out")
        if found["machine"]["processor"] != self.document["machine"]["processor"]:
            raise UserError(f"{path}: holds results of another machine; give another --out")
        self.document = found

    def get(self, key: str, measure: Callable[[], Any]) -> Any:
        """The result of that key: from the file, else measured now and written to it."""
        results = self.document["results"]
        if key not in results:
            results[key] = measure()
            if self._path is not None:
                write_atomically(self._path, json.dumps(self.document, indent=1).encode())
        return results[key]


def read_document(path: Path, command: str) -> dict[str, Any]:
    """What a results file or the `--json` of that command holds.

    Raises:
        UserError: it cannot be read, or is of another command.
        CorruptFile: it is not JSON of ours.
    """
    document = read_json(path, f"a results file of `atom-bench speed {command}`")
    whole = isinstance(document, dict) and {"settings", "machine", "results"} <= set(document)
    if not whole or document.get("command") != command:
        raise UserError(f"{path}: not a result of `atom-bench speed {command}`")
    return document
