"""Runs generated commands with wrong values, contents and surroundings, and counts what falls.

    python -m tests.stress.sweep --commands 3000 --seed 7
    python -m tests.stress.sweep --only "atom-bench leaderboard" --commands 300

Prints the number of commands by exit code, and each kind of fault with its number and the shortest
command that shows it. The exit code is 1 if there is a fault.
"""

import argparse
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

from tests.stress import inputs
from tests.stress.commands import Case, generate, output_paths
from tests.stress.runner import Outcome, import_all, run_case
from tests.stress.verdict import faults

CPU_LIMIT_S = 10.0
DEFAULT_PLACES = ("out", "runs", "tg80-data", "tuning", "twins")


@dataclass
class Report:
    """What a sweep found: commands by exit code, and faults by kind."""

    codes: Counter = field(default_factory=Counter)
    found: dict[str, list[tuple[Case, Outcome]]] = field(default_factory=dict)
    long: list[Case] = field(default_factory=list)

    def add(self, case: Case, outcome: Outcome, kinds: list[str], where: str) -> None:
        self.codes[outcome.code] += 1
        if outcome.stopped and not kinds:
            self.long.append(case)
        for kind in kinds:
            name = f"{kind} {where}".strip()
            self.found.setdefault(name, []).append((case, outcome))

    @property
    def n_faults(self) -> int:
        return sum(len(cases) for cases in self.found.values())

    def lines(self) -> Iterator[str]:
        """The report as text."""
        by_code = ", ".join(f"{n} with {code}" for code, n in sorted(self.codes.items()))
        yield f"{self.codes.total()} commands by exit code: {by_code}"
        yield f"{len(self.long)} worked until they were told to stop"
        yield f"{self.n_faults} faults of {len(self.found)} kinds"
        for kind, cases in sorted(self.found.items(), key=lambda item: -len(item[1])):
            case, outcome = min(cases, key=lambda pair: len(str(pair[0])))
            yield f"\n{len(cases)} x {kind}\n  {case}"
            last = outcome.stderr.decode(errors="replace").strip().splitlines()[-3:]
            yield from (f"    {ascii(line)[1:-1][:300]}" for line in last)


def sweep(
    cases: Iterator[Case],
    n: int,
    *,
    made: Path | None,
    verbose: bool = False,
    minutes: float = float("inf"),
) -> Report:
    """Run the first `n` cases.

    Args:
        cases: the commands.
        n: how many of them.
        made: inputs from `inputs.build_world`; None makes those that are quick to make.
        verbose: print every case.
        minutes: no new command begins after these.
    """
    import_all()
    end = time.monotonic() + 60 * minutes
    report = Report()
    base = Path(tempfile.mkdtemp(prefix="sweep-"))
    base.chmod(0o755)
    try:
        world = base / "world"
        _lay_down(world, made)
        before = inputs.snapshot(world)
        for number, case in enumerate(islice(cases, n)):
            if time.monotonic() > end:
                break
            folder = base / f"{number}"
            outcome, changed = _run(case, world, folder)
            if inputs.snapshot(world) != before:
                changed.append("an input")
                shutil.rmtree(world)
                _lay_down(world, made)
                before = inputs.snapshot(world)
            kinds = faults(case, outcome, changed)
            where = _where(case, world, base / f"{number}-again", kinds)
            report.add(case, outcome, kinds, where)
            if verbose or kinds:
                print(f"{outcome.code:4} {outcome.seconds:5.1f} s {kinds or ''} {case}")
            if kinds:
                print(outcome.stderr.decode(errors="replace")[-1500:], where, flush=True)
            for left in base.glob(f"{number}*"):
                shutil.rmtree(left, ignore_errors=True)
            for left in base.glob("tmp*"):
                shutil.rmtree(left, ignore_errors=True)
    finally:
        shutil.rmtree(base, ignore_errors=True)
    return report


def _lay_down(world: Path, made: Path | None) -> None:
    if made is None:
        inputs.build_world(world, whole=False)
    else:
        shutil.copytree(made, world)


def _run(case: Case, world: Path, folder: Path) -> tuple[Outcome, list[str]]:
    folder.mkdir()
    inputs.make_sandbox(world, folder)
    if case.spoilt:
        inputs.spoil(folder, *case.spoilt)
    before = inputs.snapshot(folder)
    outcome = run_case(case, folder, cpu_limit_s=CPU_LIMIT_S, wall_limit_s=8 * CPU_LIMIT_S)
    return outcome, _changed(case, before, inputs.snapshot(folder))


def _changed(case: Case, before: dict, after: dict) -> list[str]:
    """What changed and was not named as a place to write to."""
    if (
        "" in case.arguments
        or "." in case.arguments
        or any(w.endswith("=") for w in case.arguments)
    ):
        return []  # the folder itself is named
    named = [str(path) for path in output_paths(case)] + list(DEFAULT_PLACES[1:])
    changed = [path for path in before.keys() | after.keys() if before.get(path) != after.get(path)]
    return [
        path
        for path in changed
        if not any(path == name or path.startswith(f"{name}/") or name.startswith(f"{path}/")
                   for name in named)
        and not path.endswith(".lock")
    ]  # fmt: skip


def _where(case: Case, world: Path, folder: Path, kinds: list[str]) -> str:
    """Where in our code a bug comes from: the same command once more with --debug."""
    if not any(kind.startswith("bug") for kind in kinds):
        return ""
    outcome, _ = _run(replace(case, arguments=[*case.arguments, "--debug"]), world, folder)
    lines = outcome.stderr.decode(errors="replace").splitlines()
    ours = [line.strip() for line in lines if str(Path(__file__).parents[2]) in line]
    ours = [line for line in ours if "cli_support" not in line and "/tests/" not in line]
    return "at " + ours[-1].replace(str(Path(__file__).parents[2]) + "/", "") if ours else ""


def main() -> int:
    """Sweep as the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--commands", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="part of the commands' names")
    parser.add_argument("--inputs", type=Path, help="folder that keeps the inputs for next time")
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--verbose", action="store_true")
    chosen = parser.parse_args()
    began = time.monotonic()
    cases = generate(chosen.seed, inputs.input_paths(), inputs.written_paths(), chosen.only)
    with tempfile.TemporaryDirectory() as temporary:
        made = chosen.inputs or Path(temporary) / "world"
        if not made.exists():
            inputs.build_world(made, whole=True)
        report = sweep(
            cases, chosen.commands, made=made, verbose=chosen.verbose, minutes=chosen.minutes
        )
    print("\n".join(report.lines()))
    print(f"\n{time.monotonic() - began:.0f} s")
    return 1 if report.found else 0


if __name__ == "__main__":
    sys.exit(main())
