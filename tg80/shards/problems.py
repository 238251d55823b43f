"""What a check of a file reports: problems, and the list that they are collected in."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

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
        self._numbers: np.ndarray | None = None

    def error(self, check: str, message: str, *, level: ProblemLevel = "error") -> None:
        # A damaged name or unit need not be text that can be printed.
        printable = message.encode(errors="backslashreplace").decode()
        self.problems.append(Problem(level, str(self.path), check, printable))

    def warning(self, check: str, message: str) -> None:
        self.error(check, message, level="warning")

    def of_frames(self, numbers: np.ndarray) -> "Findings":
        """The same findings for a check that is given only the frames of these numbers."""
        part = Findings(self.path)
        part.problems, part._numbers = self.problems, numbers
        return part

    def above(self, check: str, values: np.ndarray, limit: float, message: str) -> bool:
        """Report the largest of `values` (n_frames,) if it is above a limit.

        Args:
            check: its name.
            values: one for each frame.
            limit: what none may exceed.
            message: with `{frame}` and `{worst}` for the frame and its value.

        Returns:
            Whether one is.
        """
        frame = int(np.argmax(values))
        too_large = bool(values[frame] > limit)
        if too_large:
            number = frame if self._numbers is None else int(self._numbers[frame])
            self.error(check, message.format(frame=number, worst=float(values[frame])))
        return too_large

    @property
    def has_errors(self) -> bool:
        return any(problem.level == "error" for problem in self.problems)
