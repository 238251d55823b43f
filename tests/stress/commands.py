"""Command lines made from the two programs' own options: a new option cannot be forgotten."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import typer

from docs.generate import command_names, programs

# A cheap command line of each command that is in order; paths lie in the sandbox (`inputs.py`).
GOOD: dict[str, str] = {
    "tg80 generate": "--molecule-list in/list.smi --level gfn2-xtb --length-fs 2 --workers 1 "
    "--equilibration-fs 1 --set pre_equilibration_fs=1 --set segment_fs=1 --set n_conformers=1 "
    "--set n_relaxed=1 --recipe in/recipe.toml --out out/run",
    "tg80 status": "in/run",
    "tg80 collect": "in/run",
    "tg80 singlepoint": "in/water.xyz --level gfn2-xtb",
    "tg80 validate": "in/shards",
    "tg80 info": "in/shards",
    "tg80 split": "--molecule-list in/list.smi --restrict in/split.json --out out/split.json",
    "tg80 twin": "--data in/shards --twins 2 --starts 1 --length-fs 10 --workers 1 --out out/twins",
    "tg80 plan": "--molecule-list in/list.smi --level gfn2-xtb --probes 1 --steps 1 "
    "--length-fs 2 --recipe in/recipe.toml",
    "tg80 export": "in/shards --to extxyz --frames 3 --out out/export",
    "tg80 download": "--source in/site --to out/got --attempts 1 --timeout 1",
    "tg80 public": "in/md17_ethanol.npz --frame-fs 0.5",
    "tg80 publish": "in/shards --out out/site --split none --about in/about.md",
    "atom-bench run": "--fold 2 --model persistence --data in/shards --epochs 1 --out out/runs",
    "atom-bench leaderboard": "in/runs",
    "atom-bench symmetry": "--fold 2 --model persistence --windows 2 --rotations 2",
    "atom-bench finetune": "ethanol --from in/runs --epochs 1 --frames 2 --out out/runs",
    "atom-bench horizons": "--fold 2 --from in/runs --model persistence --steps 1 --out out/h",
    "atom-bench ablate": "--fold 2 --only no-rope --epochs 1 --seeds 1 --out out/runs",
    "atom-bench tune": "--model atom --most 1 --epochs 1 --out out/tuning",
    "atom-bench compare": "in/runs persistence relaxed-structure --resamples 1000",
    "atom-bench harmonic-trial": "--model atom --molecule furan --minutes 0.01 --out out/trials",
    "atom-bench template": "--fold 2 --part test_time --data in/shards --out out/template.h5",
    "atom-bench score": "in/filled.h5 --out out/runs",
    "atom-bench submit": "in/filled.h5 --out out/sent.zip",
    "atom-bench speed aimd": "--molecules formaldehyde --steps 1 --repeats 1 --warm-up 1 "
    "--checks 0 --references 0 --equilibration-fs 1 --outer-fs= --out out/aimd.json",
    "atom-bench speed scf": "--molecules formaldehyde --spacings-fs 1 --geometries 1 --warm-up 1 "
    "--stock 1 --checks 1 --out out/scf.json",
    "atom-bench speed gpu": "--molecules formaldehyde --trajectories 1 --devices cpu --seconds 1",
    "atom-bench speed memory": "--molecules formaldehyde --steps 1 --memory-gb 1",
    "atom-bench speed throughput": "--molecules formaldehyde --steps 1 --repeats 1",
    "atom-bench speed mts": "--molecules formaldehyde --integrators verlet:0.5 --length-fs 1 "
    "--equilibration-fs 1 --aimd in/aimd.json --out out/mts.json",
    "atom-bench speed outer": "--molecules formaldehyde --outer-fs 2 --labels 10 --length-fs 10 "
    "--out out/outer.json",
    "atom-bench speed loader": "--data in/shards --presets mini --workers 0 --batches 1 "
    "--steps 1 --repeats 1 --out in/loader.json",
    "atom-bench speed model": "--preset mini --modes joint --atoms 3 --batch-size 1 --lags 1 "
    "--repeats 1 --out in/model.json",
}  # fmt: skip

OUTPUTS = {"out", "html", "plot", "to", "fetch"}
"""Parameters that name what is written."""

NUMBERS = [
    "abc", "", " ", "-1", "0", "nan", "inf", "-inf", "1e308", "1e23", "1e-320", "1e999",
    "9" * 30, "-" + "9" * 30, "99999", "2147483648", "9223372036854775808", "0.5", "0.3", "1_0",
    "1e5", "1e-5", "0x10", "1.5", "1,5", "\u0663", "1e1e1", "--", "9" * 5000, "true", "1;2",
]  # fmt: skip
TEXTS = [
    "", " ", "-", ",", ",,", "=", ".", "..", "a", "a" * 300, "a" * 5000, "a\nb", "\x1b[31mred",
    "\udcff\udcfe", "\u00f8\u0142\u4e2d", "\U0001d518", "[/red]", "[bold", "%s%n{}{0}", "$(id)",
    "nan", "1e308", "-1", "0", "9" * 30, "1,1", "1,x", "0,1,2", "None", "null", "true", "{}", "[]",
    "[" * 100000, "ethanol", "formaldehyde,formaldehyde", "tg80", "tg80-v1", "http://", "http://[",
    "http://127.0.0.1:1/x", "https://127.0.0.1:1", "ftp://x", "file:///etc", "s3://x/y",
    "tcp://127.0.0.1:1", "tls://127.0.0.1:1", "tcp://:0", "tcp://[::1", "ucx://x", "inproc://x",
    "gfn2-xtb", "cuda", "verlet", "1:2", "verlet:0", "mts:nan", "verlet:1e23", "md17/aspirin",
    "tg80-multitask", "tg80-zero-shot/furan", "tg80-zero-shot/", "md17/", "persistence",
    "train", "test_time", "canonical", "\ufeff", "\u202etxt", "a/b", "../../x", "CON", "~nobody",
]  # fmt: skip
SETTINGS = [
    "", "=", "a", "=1", "a=", ".=1", "a..b=1", "seed", "seed=-1", f"seed={'9' * 30}", "seed=1.5",
    "seed=nan", "seed=true", "seed=[1]", "seed={a=1}", "length_fs=1e23", "length_fs=1e308",
    "length_fs=1e-320", "length_fs=inf", "length_fs=nan", "store_every_fs=1e-320",
    "verlet_step_fs=1e-320", "verlet_step_fs=1e-9", "segment_fs=1e23", "temperature_k=1e-320",
    "thermostat_time_fs=1e-320", "quality=1", "quality.x=1", "quality={}", "theory.grid_level=99",
    "theory={}", "theory.x=1", "theory=1", "theory.max_cycles=9999999999", "theory.basis=sto-3g",
    "theory.convergence=1e-320", "theory.convergence=nan", "n_conformers=10000000", "level=1",
    "level=pbe-def2svp", "level=", "length_fs=" + "[" * 100000, "length_fs=" + "9" * 5000,
    "a=" + "{a=" * 3000, "training.batch_size=0", "training.batch_size=1e308",
    f"training.batch_size={'9' * 30}", "training.learning_rate=nan", "training.learning_rate=1e308",
    "training.learning_rate=Infinity", "training.x=1", "training=1", "model.width=-1",
    "model.width=99999999", "model.n_blocks=0", "model.n_heads=3", "model=null", "model.width=" +
    "[" * 100000, "model." + "a." * 2000 + "b=1", "device=1", "device=cuda:99", "preset=1",
    "training.validations=0", "training.windows_per_trajectory=0", "\udcff=1", "a=\udcff",
]  # fmt: skip
JUNK_ENVIRONMENT = {
    "TG80_SOURCE": ["", "http://[", "\x1b[31m", "in/fifo", "x" * 5000],
    "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": ["junk", "-1", "nan"],
    "DASK_DISTRIBUTED__WORKER__MEMORY__TARGET": ["junk"],
    "DASK_TEMPORARY_DIRECTORY": ["/nowhere", "in/list.smi"],
    "TMPDIR": ["/nowhere", "in/list.smi", ""],
    "HOME": ["/nowhere", "", "/proc", None],
    "XDG_CONFIG_HOME": ["/nowhere", "in/list.smi", "\udcff"],
    "COLUMNS": ["1", "0", "-5", "junk", "99999999"],
    "LINES": ["1", "junk"],
    "NO_COLOR": ["1", ""],
    "FORCE_COLOR": ["1"],
    "TERM": ["dumb", "", "junk"],
    "OMP_NUM_THREADS": ["0", "junk", "-1"],
    "PYTHONWARNINGS": ["default"],
    "RANK": ["junk", "-1", "0"],
    "WORLD_SIZE": ["junk", "0", "2"],
    "LOCAL_RANK": ["junk"],
    "SLURM_JOB_ID": ["junk"],
    "CUDA_VISIBLE_DEVICES": ["junk", "-1"],
    "MPLBACKEND": ["junk"],
    "PATH": ["", "/nowhere"],
}
STREAMS = ["ascii", "latin-1", "no-stdin", "no-stdout", "no-stderr", "full-stdout", "pipe-stdout"]


@dataclass(frozen=True)
class Parameter:
    """One option or argument as the click tree has it."""

    name: str
    option: str | None
    kind: str  # flag, number, text or path
    multiple: bool

    @property
    def is_output(self) -> bool:
        return self.name in OUTPUTS and self.kind == "path"


@dataclass
class Case:
    """One command to run.

    Attributes:
        spoilt: input in the sandbox whose content is damaged, with a seed that decides how.
        environment: variables that differ; None takes one away. stream: what is odd about the
            standard streams. limit: files, memory or none. rights: run as a user without rights.
        stop: signal and the seconds after which it comes. real: a process of its own, not a fork.
    """

    program: str
    command: str
    arguments: list[str]
    spoilt: tuple[str, int] | None = None
    environment: dict[str, str | None] = field(default_factory=dict)
    stream: str | None = None
    limit: str | None = None
    rights: bool = False
    stop: tuple[int, float] | None = None
    real: bool = False

    @property
    def argv(self) -> list[str]:
        return [*self.command.split(), *self.arguments]

    def __str__(self) -> str:
        words = [f"{k}={v!r}" if v is not None else f"-u {k}" for k, v in self.environment.items()]
        words += [f"<{x}>" for x in (self.stream, self.limit) if x]
        words += ["<without rights>"] if self.rights else []
        words += [f"<signal {self.stop[0]} after {self.stop[1]:.2f} s>"] if self.stop else []
        words += [self.program, *self.command.split()]
        words += [short(word) for word in self.arguments]
        words += [f"<spoilt {self.spoilt[0]} {self.spoilt[1]}>"] if self.spoilt else []
        return " ".join(words)


def short(word: str) -> str:
    """A word of a command line as it can be read, long ones cut."""
    shown = word if word.isprintable() and word and " " not in word else ascii(word)
    return shown if len(shown) <= 60 else f"{shown[:40]}...({len(word)} characters)"


def tree() -> dict[str, list[Parameter]]:
    """All commands of both programs, with all their parameters."""
    found = {}
    for program, app, _ in programs():
        root: Any = typer.main.get_command(app)
        for name in command_names(app):
            command = root
            for word in name.split():
                command = command.commands[word]
            found[f"{program} {name}"] = [_parameter(each) for each in command.params]
    return found


def _parameter(param: Any) -> Parameter:
    options = [*getattr(param, "opts", []), *getattr(param, "secondary_opts", [])]
    named = str(param.type_descriptor.annotation)
    kind = "text"
    if getattr(param, "is_flag", False):
        kind = "flag"
    elif "int" in named or "float" in named:
        kind = "number"
    elif "Path" in named:
        kind = "path"
    is_option = param.param_type_name == "option"
    many = bool(getattr(param, "multiple", False)) or param.nargs == -1
    return Parameter(param.name, options[0] if is_option else None, kind, many)


def generate(seed: int, paths: list[str], outputs: list[str], only: str = "") -> Iterator[Case]:
    """Cases without end; the same seed gives the same ones.

    Args:
        seed: of the cases.
        paths: hostile input paths of the sandbox.
        outputs: hostile output paths of the sandbox.
        only: part of the names of the commands to try; all if empty.
    """
    commands = {name: params for name, params in tree().items() if only in name}
    number = 0
    while True:
        for name, parameters in commands.items():
            rng = random.Random(f"{seed} {number} {name}")
            yield _case(rng, name, parameters, paths, outputs)
        number += 1


def _case(
    rng: random.Random, name: str, parameters: list[Parameter], paths: list[str], outputs: list[str]
) -> Case:
    program, _, command = name.partition(" ")
    words = GOOD.get(name, "").split()
    case = Case(program, command, words)
    if rng.random() < 0.35 and any(p.name in ("as_json", "json_output") for p in parameters):
        case.arguments.append("--json")
    inputs = [word for word in words if word.startswith("in/")]
    for _ in range(1 if rng.random() < 0.7 else 2):
        kind = rng.choices(["value", "content", "environment", "signal"], [60, 25, 12, 3])[0]
        if kind == "content" and inputs:
            case.spoilt = (rng.choice(inputs), rng.randrange(10**6))
        elif kind == "environment":
            _odd_surroundings(rng, case)
        elif kind == "signal":
            case.stop = (rng.choice([2, 15]), rng.uniform(0, 3))
            case.real = rng.random() < 0.3
        else:
            parameter = rng.choice(parameters)
            _put(case.arguments, parameter, _junk(rng, parameter, paths, outputs), parameters)
    case.rights = rng.random() < (0.5 if any("secret" in w for w in case.arguments) else 0.03)
    return case


def _odd_surroundings(rng: random.Random, case: Case) -> None:
    kind = rng.choice(["variable", "variable", "stream", "limit"])
    if kind == "variable":
        name = rng.choice(list(JUNK_ENVIRONMENT))
        case.environment[name] = rng.choice(JUNK_ENVIRONMENT[name])
    elif kind == "stream":
        case.stream = rng.choice(STREAMS)
    else:
        case.limit = rng.choice(["files", "memory"])
    case.real = rng.random() < 0.05


def _junk(
    rng: random.Random, parameter: Parameter, paths: list[str], outputs: list[str]
) -> str | None:
    if parameter.kind == "flag":
        return None
    if parameter.option in ("--set", "--change") and rng.random() < 0.8:
        return rng.choice(SETTINGS)
    if parameter.is_output:
        return rng.choice(outputs)
    if parameter.kind == "path":
        return rng.choice(paths)
    if parameter.kind == "number":
        return rng.choice(NUMBERS)
    return rng.choice(rng.choice([TEXTS, TEXTS, paths, NUMBERS]))


def _put(
    words: list[str], parameter: Parameter, value: str | None, parameters: list[Parameter]
) -> None:
    """Replace or add a parameter's value in place."""
    option = parameter.option
    if option is None:
        positions = [i for i in range(len(words)) if _is_argument(words, i, parameters)]
        arguments = [p.name for p in parameters if p.option is None]
        place = arguments.index(parameter.name)
        if place < len(positions):
            words[positions[place]] = value or ""
        else:
            words.append(value or "")
    elif value is None:
        words.append(option)
    elif option in words and not parameter.multiple:
        words[words.index(option) + 1] = value
    else:
        words.append(f"{option}={value}")


def _is_argument(words: list[str], index: int, parameters: list[Parameter]) -> bool:
    if words[index].startswith("-"):
        return False
    before = words[index - 1] if index else ""
    taking = {p.option for p in parameters if p.kind != "flag"}
    return before not in taking


def output_paths(case: Case) -> list[Path]:
    """What the command may write to."""
    given = [Path(w.partition("=")[2] or "out") for w in case.arguments if w.startswith("--")]
    words = [Path(w) for w in case.arguments]
    return [p for p in (*given, *words) if p.parts[:1] == ("out",)]
