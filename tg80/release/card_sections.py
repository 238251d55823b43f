"""Parts of a data card in Markdown, each made from the facts of the shards alone."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from tg80.release.survey import ShardFacts, by_level
from tg80.shards.quality import Check
from tg80.theory import LEVELS

Facts = Sequence[ShardFacts]
_METHODS = {"rks": "restricted Kohn-Sham DFT", "xtb": "tight binding (tblite); **not** DFT"}
_SETTINGS = {
    "functional": "functional",
    "basis": "basis",
    "auxiliary_basis": "auxiliary basis (RI-J)",
    "even_tempered_beta": "ratio of its exponents",
    "grid_level": "grid level (PySCF)",
    "small_rho_cutoff": "density below which grid points are dropped",
    "energy_threshold_hartree": "energy threshold / hartree",
    "gradient_threshold": "orbital gradient threshold / hartree",
    "accuracy": "accuracy (tblite)",
    "electronic_temperature_k": "electronic temperature / K",
}
_RUN_SETTINGS: dict[str, Callable[[ShardFacts], Any]] = {
    "ensemble": lambda fact: fact.metadata.ensemble,
    "integrator": lambda fact: fact.metadata.integrator,
    "time step at the level / fs": lambda fact: fact.metadata.time_step_fs,
    "stored every / fs": lambda fact: fact.metadata.store_every_fs,
    "length / fs": lambda fact: fact.metadata.length_fs,
    "target temperature / K": lambda fact: fact.metadata.temperature_k,
    "NVT at GFN2-xTB before / fs": lambda fact: fact.metadata.recipe.get("pre_equilibration_fs"),
    "NVT at the level before / fs": lambda fact: fact.metadata.recipe.get("equilibration_fs"),
    "energy of the start": lambda fact: f"{fact.metadata.start} ({fact.metadata.energy_source})",
    "master seed": lambda fact: fact.metadata.seed,
}


def contents(facts: Facts) -> str:
    """How much there is of what, in a line a level."""
    lines = []
    for level, shards in by_level(facts).items():
        compounds = len({fact.metadata.name for fact in shards})
        frames = sum(fact.metadata.n_frames for fact in shards)
        length = sum(fact.metadata.length_fs for fact in shards) / 1000
        size = sum(fact.n_bytes for fact in shards) / 1e6
        lines.append(
            f"- `{level}`: {counted(len(shards), 'trajectory', 'trajectories')} of "
            f"{counted(compounds, 'compound')}, {frames} frames, {length:g} ps, {size:.1f} MB"
        )
    return "\n".join(lines)


def physics(facts: Facts) -> str:
    """Level of theory and settings of the dynamics, a table a level."""
    sections = []
    for level, shards in by_level(facts).items():
        settings = _settings(shards[0])
        rows = [("method", _METHODS.get(settings.get("method", ""), "not stated"))]
        rows += [
            (label, f"{settings[key]:g}" if isinstance(settings[key], float) else settings[key])
            for key, label in _SETTINGS.items()
            if settings.get(key) is not None
        ]
        rows += [(label, distinct(map(get, shards))) for label, get in _RUN_SETTINGS.items()]
        sections.append(f"### Level `{level}`\n\n" + table(("setting", "value"), rows))
    return "\n\n".join(sections)


def _settings(fact: ShardFacts) -> dict[str, Any]:
    """What the level is: as the shard says, and as its name says where the shard is silent."""
    level, stated = fact.metadata.level, fact.metadata.level_settings
    known = LEVELS[level].settings() if level in LEVELS else {}
    return known | {key: value for key, value in stated.items() if value is not None}


def cost(facts: Facts) -> str:
    """What the data cost and on what they were made, as far as the shards say."""
    rows = []
    for level, shards in by_level(facts).items():
        evaluations = sum(
            round(fact.metadata.length_fs / fact.metadata.time_step_fs) + 1 for fact in shards
        )
        cycles = [fact.scf_cycles for fact in shards if fact.scf_cycles is not None]
        mean = f"{sum(cycles) / len(cycles):.1f}" if len(cycles) == len(shards) else "not told"
        seconds = [fact.metadata.statistics.get("cpu_seconds") for fact in shards]
        known = [second for second in seconds if isinstance(second, int | float)]
        hours = f"{sum(known) / 3600:.2f}" if known else "not recorded"
        if 0 < len(known) < len(shards):
            hours += f" in {len(known)} of {len(shards)} trajectories, else not recorded"
        rows.append((f"`{level}`", str(evaluations), mean, hours))
    header = (
        "level",
        "evaluations of energy and forces (production)",
        "SCF cycles, mean",
        "CPU hours",
    )
    machines = distinct(_listed(fact.metadata.platform) for fact in facts)
    programs = distinct(_listed(fact.metadata.versions) for fact in facts)
    return "\n".join(
        [
            table(header, rows),
            "",
            f"Hardware, as recorded: {machines or 'not recorded'}."
            + ("" if any("cpu" in f.metadata.platform for f in facts) else _NO_PROCESSOR),
            f"Software: {programs or 'not recorded'}.",
        ]
    )


_NO_PROCESSOR = " The model of the processor was not recorded."


def quality_ranges(facts: Facts) -> str:
    """Ranges of the quality figures, a row a level; `tg80 info` shows every shard."""
    rows = []
    for level, shards in by_level(facts).items():
        drifts = [fact.checks["drift"] for fact in shards]
        kelvin = [fact.checks["temperature"].value for fact in shards]
        worst = max(drifts, key=lambda check: abs(check.value))
        kept = sum(check.verdict == "ok" for check in drifts)
        rows.append(
            (
                f"`{level}`",
                f"{signed(worst.value)} (limit {worst.threshold:g})",
                f"{kept} of {len(shards)}",
                f"{min(kelvin):.1f} to {max(kelvin):.1f}",
                f"{max(fact.checks['net_force'].max or 0.0 for fact in shards):.1e}",
                f"{min(fact.checks['gap'].value for fact in shards):.2f}",
                str(sum(sum(fact.n_flagged.values()) for fact in shards)),
            )
        )
    return table(
        (
            "level", "largest drift / meV/atom/ps", "drift proven under its limit", "mean T / K",
            "largest net force before projection / eV/A", "smallest gap / eV", "flags",
        ),
        rows,
    )  # fmt: skip


def quality_table(facts: Facts) -> str:
    """Quality figures of every shard."""
    rows = []
    for fact in facts:
        drift, kelvin = fact.checks["drift"], fact.checks["temperature"]
        flags = ", ".join(f"{name} {count}" for name, count in fact.n_flagged.items() if count)
        rows.append(
            (
                fact.id, f"`{fact.metadata.level}`", str(fact.metadata.n_frames),
                f"{fact.metadata.length_fs:g}",
                f"{kelvin.value:.1f} +- {_error(kelvin, '.1f')}",
                f"{signed(drift.value)} +- {_error(drift, '.3f')}",
                f"{drift.threshold:g}", drift.verdict,
                f"{fact.checks['net_force'].value:.1e}",
                f"{fact.checks['gap'].value:.2f}", flags or "none",
            )
        )  # fmt: skip
    header = (
        "shard", "level", "frames", "fs", "T / K", "drift / meV/atom/ps", "limit", "verdict",
        "net force, RMS / eV/A", "smallest gap / eV", "flagged frames",
    )  # fmt: skip
    return table(header, rows)


def warnings(facts: Facts) -> str:
    """Every warning of `tg80 validate`."""
    lines = [
        f"- `{fact.id}` (`{fact.metadata.level}`): {text}"
        for fact in facts
        for text in fact.warnings
    ]
    return "\n".join(lines) or "None: `tg80 validate` has nothing to say about these files."


def flaws(facts: Facts) -> str:
    """What is known to be wanting, as the facts and the method imply it."""
    methods = {_settings(fact).get("method") for fact in facts}
    lines = []
    if "xtb" in methods:
        lines.append(
            "GFN2-xTB is a parametrised tight-binding method: its surface is smooth and plausible, "
            "not that of DFT. Nothing learned from it is a statement about DFT."
        )
    if "rks" in methods:
        lines.append(
            "PBE/def2-SVP: no dispersion correction, a small basis, and the self-interaction of a "
            "semilocal functional (barriers too low, charge too spread)."
        )
    lines += [
        "Nuclei are classical: no zero-point motion, no tunnelling.",
        "Isolated molecules in vacuum, without overall rotation or translation.",
        "Every trajectory starts from one conformer; what is slower than it lasts is not sampled.",
    ]
    short = [fact for fact in facts if fact.checks["drift"].verdict != "ok"]
    if short:
        names = ", ".join(f"`{fact.id}`" for fact in short)
        lines.append(f"The drift is not proven to be under its limit in {names}.")
    early = [fact for fact in facts if fact.metadata.end != "complete"]
    lines += [f"`{fact.id}` ended early: {fact.metadata.end}." for fact in early]
    return "\n".join(f"- {line}" for line in lines)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def distinct(values: Iterable[Any]) -> str:
    """The different values there are; many numbers as their range."""
    found = sorted(
        {value for value in values if value not in (None, "")}, key=lambda v: (str(type(v)), v)
    )
    if len(found) > 3 and all(isinstance(value, int | float) for value in found):
        return f"{found[0]:g} to {found[-1]:g}"
    return "; ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in found)


def counted(number: int, one: str, many: str | None = None) -> str:
    """A number with its noun."""
    return f"{number} {one if number == 1 else many or one + 's'}"


def signed(value: float) -> str:
    """Three decimals, and no minus before a zero."""
    text = f"{value:.3f}"
    return text.removeprefix("-") if float(text) == 0 else text


def _error(check: Check, form: str) -> str:
    return "?" if check.error is None else format(check.error, form)


def _listed(entries: dict[str, Any]) -> str:
    return ", ".join(f"{key} {entries[key]}" for key in sorted(entries))
