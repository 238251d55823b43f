"""What a check of a file reports: problems, and the list that they are collected in."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

ProblemLevel = Literal["error", "warning"]


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with one file."""

    level: ProblemLevel
    file: str
    check: str
    message: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.level}: {self.file}: {self.check}: {self.message}"


class Findings:
    """Collects the problems of one file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problems: list[Problem] = []

    def error(self, check: str, message: str) -> None:
        self.add("error", check, message)

    def warning(self, check: str, message: str) -> None:
        self.add("warning", check, message)

    def add(self, level: ProblemLevel, check: str, message: str) -> None:
        # A damaged name or unit need not be text that can be printed.
        printable = message.encode(errors="backslashreplace").decode()
        self.problems.append(Problem(level, str(self.path), check, printable))

    @property
    def has_errors(self) -> bool:
        return any(problem.level == "error" for problem in self.problems)
