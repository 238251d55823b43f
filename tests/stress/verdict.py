"""What is wrong with the outcome of a command, by kind."""

import json
import re
import signal

from tests.stress.commands import Case
from tests.stress.runner import Outcome

ALLOWED_CODES = {0, 1, 2, 128 + signal.SIGINT, 128 + signal.SIGPIPE, 128 + signal.SIGTERM}
_BESIDES = ("warning: ", "note: ", "records: ", "stopped", "checking ")
_LONGEST_LINE = 3000


def faults(case: Case, outcome: Outcome, changed: list[str]) -> list[str]:
    """Kinds of faults, empty if all is well.

    Args:
        case: the command.
        outcome: what it did.
        changed: files that changed and were not named as output.
    """
    errors = outcome.stderr.decode(errors="replace")
    found = []
    if "this is a bug" in errors:
        match = re.search(r"error: (\w+): (.*)", errors)
        found.append(f"bug {match[1] if match else '?'}")
    if "Traceback (most recent call last)" in errors:
        last = [line for line in errors.splitlines() if re.match(r"[\w.]+(Error|Exception)", line)]
        found.append(f"traceback {last[-1][:60] if last else ''}")
    for noise in ("Exception ignored", "leaked", "RuntimeWarning", "UserWarning"):
        if noise in errors:
            found.append(f"noise {noise}")
    if outcome.stopped == "SIGKILL":
        found.append("hang: does not obey SIGTERM")
    elif outcome.stopped and outcome.cpu_seconds < 0.1 * outcome.seconds:
        found.append("hang: waits for something")
    elif outcome.code < 0 and case.stop and outcome.code == -case.stop[0]:
        pass  # before it began, or after it ended
    elif outcome.code < 0:
        found.append(f"died by {signal.Signals(-outcome.code).name}")
    elif outcome.code not in ALLOWED_CODES:
        found.append(f"exit code {outcome.code}")
    found += _lines(case, outcome, errors) + _json(case, outcome)
    return found + [f"changed {path}" for path in changed]


def _lines(case: Case, outcome: Outcome, errors: str) -> list[str]:
    """One line that begins with "error: ", unless a report says what failed."""
    if case.stream == "no-stderr" or outcome.code not in (1, 2):
        return []
    lines = [line for line in errors.splitlines() if line.strip()]
    named = [line for line in lines if line.startswith("error: ")]
    reported = bool(outcome.stdout.strip()) or case.stream in ("no-stdout", "full-stdout")
    found = []
    may_be_many = "list.smi" in str(case) or "list.csv" in str(case)  # one for each molecule
    if (len(named) > 1 and outcome.code == 2 and not may_be_many) or (
        not named and (outcome.code == 2 or not (reported or lines))
    ):
        found.append(f"{len(named)} error lines with exit code {outcome.code}")
    if outcome.code == 2 and len(named) == 1:
        rest = [x for x in lines if not x.startswith(("error: ", *_BESIDES))]
        if rest and "this is a bug" not in errors and "Traceback" not in errors:
            found.append("more than one line")
    if any(len(line) > _LONGEST_LINE for line in named):
        found.append("a line without end")
    if named and not all(char.isprintable() for char in named[0]):
        found.append("control characters in the error line")
    return found


def _json(case: Case, outcome: Outcome) -> list[str]:
    text = outcome.stdout.strip()
    if "--json" not in case.arguments or "--help" in case.arguments:
        return []
    if outcome.code not in (0, 1, 2) or case.stream in ("no-stdout", "full-stdout", "pipe-stdout"):
        return []
    if not text:
        return ["no JSON"] if outcome.code == 0 else []
    try:
        json.loads(text.decode(), parse_constant=_refuse)
    except (ValueError, RecursionError):
        return ["invalid JSON"]
    return []


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
