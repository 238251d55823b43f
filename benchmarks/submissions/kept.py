"""What is recorded of earlier submissions under one name, and what may join them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.runs.records import SUBMITTED, Record, read_record
from benchmarks.runs.runner import MODEL_FOLDER
from benchmarks.submissions.parsing import Submission
from tg80.errors import UserError

STATED = "submission.json"
# Whoever may use a name says the same of these, on any task.
_OWN = ("paper", "licence")


def check_row(out: Path, folder: Path, settings: Mapping[str, Any], submission: Submission) -> None:
    """Refuse what would take a name that is another's, or count one prediction twice.

    Args:
        out: folder of all records. folder: where that of this submission will lie, or does.
        settings: of the submission, as its record will have them.

    Raises:
        UserError: a record of that name tells of another paper or licence, or was made of the same
            predictions.
    """
    name = submission.card.model
    for place, record in _recorded(out, name):
        if place.resolve() == folder.resolve():
            continue
        for key in _OWN:
            if record.settings.get(key) != settings[key]:
                raise UserError(
                    f"{submission.shown}: {key} is {settings[key]!r}, but {place} of the same name "
                    f"says {str(record.settings.get(key))[:200]!r}; give the same, or choose "
                    "another model name"
                )
        if _told(place).get("predictions_sha256") == submission.predictions_sha256:
            raise UserError(
                f"{submission.shown}: the predictions are those of {place}, seed {record.seed}, to "
                "the last bit; send each once, a model without chance has one seed"
            )


def sha256_of(folder: Path) -> str | None:
    """Hash of the submission that a record was made of, None if it cannot be told."""
    found = _told(folder).get("sha256")
    return found if isinstance(found, str) else None


def _recorded(out: Path, name: str) -> Iterator[tuple[Path, Record]]:
    """Finished runs of a name below a folder, on any task."""
    for path in sorted(out.rglob(f"{SUBMITTED}{name}/*/record.json")):
        record = read_record(path.parent)
        if record is not None and record.model == SUBMITTED + name:
            yield path.parent, record


def _told(folder: Path) -> dict[str, Any]:
    try:
        told = json.loads((folder / MODEL_FOLDER / STATED).read_text())
    except (OSError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}
