"""Data cards: what a person has to know before using a data set, made from its shards.

`site_card` is the README.md of a publication, in the form the Hugging Face hub reads. The folders
that ship with this package have a README.md of which the part between two marks is made here:

    python -m tg80.release.card tg80/data/mini-xtb
"""

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tg80.dataset import RELEASE_MANIFEST
from tg80.errors import Tg80Error, UserError
from tg80.files import write_atomically
from tg80.release.survey import Publication, ShardFacts, by_level, survey
from tg80.shards.fields import fields_table, flags_table
from tg80.shards.metadata import ShardMetadata
from tg80.shards.quality import Check
from tg80.splits.split import PARTS, TG80_VERSION, load_split
from tg80.theory import LEVELS
from tg80.untrusted.tables import markdown_text

CARD_NAME = "README.md"
BEGIN = "<!-- facts: begin (made by `python -m tg80.release.card`) -->"
END = "<!-- facts: end -->"
PLOTS = {
    "temperature": "Mean temperature of every trajectory beside its target",
    "drift": "Drift of the conserved quantity of every trajectory beside its limit",
    "net-force": "Net force before projection of every trajectory",
    "bond-lengths": "Histogram of the bond lengths of every kind of bond",
    "vibrations": "Vibrational density of states of every compound",
}
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (10**6, "100K<n<1M"))
_METHODS = {"rks": "restricted Kohn-Sham DFT", "xtb": "tight binding (tblite); **not** DFT"}
_LEVEL_SETTINGS = {
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
_RUN_SETTINGS: dict[str, Callable[[ShardMetadata], Any]] = {
    "ensemble": lambda shard: shard.ensemble,
    "integrator": lambda shard: shard.integrator,
    "time step at the level / fs": lambda shard: (
        "by the residual force" if shard.integrator == "learned" else shard.time_step_fs
    ),
    "stored every / fs": lambda shard: shard.store_every_fs,
    "length / fs": lambda shard: shard.length_fs,
    "target temperature / K": lambda shard: shard.temperature_k,
    "NVT at GFN2-xTB before / fs": lambda shard: shard.recipe.get("pre_equilibration_fs"),
    "NVT at the level before / fs": lambda shard: shard.recipe.get("equilibration_fs"),
    "energy of the start": lambda shard: f"{shard.start} ({shard.energy_source})",
    "master seed": lambda shard: shard.seed,
}
Facts = Sequence[ShardFacts]


def site_card(publication: Publication) -> str:
    """The data card of a publication, with YAML front matter."""
    publication = replace(publication, facts=tuple(map(_escaped, publication.facts)))
    facts = publication.facts
    parts = [
        _front_matter(publication),
        f"# {publication.name} {publication.version}",
        publication.about.strip(),
        "Molecular dynamics of organic molecules, one H5MD 1.1 (HDF5) file a trajectory.",
        _contents(facts),
        "## Getting it",
        _getting(publication),
        *_physics_and_cost(facts),
        "## Fields",
        fields_table(),
        "Bits of `quality_flags`:",
        flags_table(),
        "## Folds",
        _folds(publication),
        "## Quality",
        _quality_of_shards(facts),
        _pictures(publication),
        *_warnings_and_flaws(facts),
        f"## Licence\n\n{publication.licence}",
        "## Citation",
        f"The data:\n\n```bibtex\n{data_bibtex(publication)}\n```",
        f"The programs:\n\n```bibtex\n{software_bibtex()}\n```",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def folder_facts(facts: Facts) -> str:
    """The short form, for the README.md of a folder that ships with the package."""
    facts = [_escaped(fact) for fact in facts]
    licences = ", ".join(sorted({fact.metadata.licence for fact in facts}))
    parts = [
        *_progress(facts),
        _contents(facts),
        *_physics_and_cost(facts),
        "## Quality",
        _quality_ranges(facts),
        *_warnings_and_flaws(facts),
        f"## Licence\n\n{licences}",
    ]
    return "\n\n".join(parts)


def _progress(facts: Facts) -> list[str]:
    """How far a release is that is being made: a folder of `releases` without a manifest."""
    if facts[0].path.resolve().parent.parent.name != "releases":
        return []
    wanted = load_split(TG80_VERSION).molecules
    n_compounds = len({fact.metadata.name for fact in facts} & set(wanted))
    return [
        f"**In the making: {n_compounds} of {len(wanted)} compounds.** The files that are here are "
        "final and readable; there is no manifest, split or download until all are."
    ]


def folder_card(text: str, facts: Facts) -> str:
    """A README.md with the part between the marks made anew, or put at the end if it has none."""
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    made = f"{before.rstrip()}\n\n{BEGIN}\n{folder_facts(facts)}\n{END}\n"
    return made + (f"\n{after.strip()}\n" if after.strip() else "")


def plot_path(publication: Publication, level: str, plot: str) -> str:
    """Where a plot lies below the version's folder."""
    return publication.place(f"plots/{level}/{plot}.png")


def software_bibtex() -> str:
    """How to cite the programs: the facts of CITATION.cff, which no installed package has."""
    title = (
        "TG80 and atom-bench: ab initio molecular dynamics of 80 organic compounds and a fair"
        " benchmark of learned dynamics"
    )
    return _bibtex("software", "tg80", title, ["The TG80 authors"], year="2026", version="0.1.0")


def data_bibtex(publication: Publication) -> str:
    """How to cite the data."""
    key = re.sub(r"[^a-z0-9]+", "", f"{publication.name}{publication.version}".lower())
    title = f"{publication.name}: molecular dynamics trajectories in the TG80 format"
    url = {"url": publication.url} if publication.url else {}
    year, version = publication.created[:4], publication.version
    return _bibtex("misc", key, title, publication.authors, year=year, version=version, **url)


def _bibtex(kind: str, key: str, title: str, authors: Sequence[str], **fields: str) -> str:
    # Doubled braces: neither the case of a title nor a group's name is to be taken apart.
    names = " and ".join(f"{{{name}}}" for name in authors)
    entries = {"title": f"{{{title}}}", "author": names, **fields}
    body = ",\n".join(f"  {name} = {{{text}}}" for name, text in entries.items())
    return f"@{kind}{{{key},\n{body}\n}}"


def _escaped(fact: ShardFacts) -> ShardFacts:
    """The facts with every text as Markdown shows it verbatim: shards may be a stranger's."""
    metadata = {name: _escape(value) for name, value in dict(fact.metadata).items()}
    warnings = tuple(map(markdown_text, fact.warnings))
    return replace(fact, metadata=fact.metadata.model_copy(update=metadata), warnings=warnings)


def _escape(value: Any) -> Any:
    if isinstance(value, str):
        return markdown_text(value)
    if isinstance(value, dict):
        return {_escape(key): _escape(inner) for key, inner in value.items()}
    return [_escape(inner) for inner in value] if isinstance(value, list) else value


def _front_matter(publication: Publication) -> str:
    """What the Hugging Face hub reads; JSON strings are YAML strings."""
    n_frames = sum(fact.metadata.n_frames for fact in publication.facts)
    size = next((name for limit, name in _SIZES if n_frames < limit), "1M<n<10M")
    tags = ("chemistry", "molecular-dynamics", "hdf5", *sorted(by_level(publication.facts)))
    lines = [
        "---",
        f"license: {publication.licence.lower()}",
        f"pretty_name: {json.dumps(f'{publication.name} {publication.version}')}",
        "task_categories:\n- graph-ml",
        "tags:",
        *(f"- {json.dumps(tag)}" for tag in tags),
        f"size_categories:\n- {size}",
        "viewer: false",
        "---",
    ]
    return "\n".join(lines)


def _contents(facts: Facts) -> str:
    """How much there is of what, in a line a level."""
    lines = []
    for level, shards in by_level(facts).items():
        compounds = len({fact.metadata.name for fact in shards})
        frames = sum(fact.metadata.n_frames for fact in shards)
        evaluated = sum(fact.n_evaluated for fact in shards)
        partly = f" ({evaluated} with energies and forces)" if evaluated < frames else ""
        length = sum(fact.metadata.length_fs for fact in shards) / 1000
        size = sum(fact.n_bytes for fact in shards) / 1e6
        lines.append(
            f"- `{level}`: {len(shards)} trajector{'y' if len(shards) == 1 else 'ies'} of "
            f"{compounds} compound{'' if compounds == 1 else 's'}, {frames} frames{partly}, "
            f"{length:g} ps, {size:.1f} MB"
        )
    return "\n".join(lines)


def _getting(publication: Publication) -> str:
    source, first = publication.url or "URL_OF_THIS_FOLDER", publication.facts[0].metadata
    commands = [f"tg80 download --source {source} --to DIR"]
    if publication.folds:
        commands.append(f"tg80 download --source {source} --fold 1 --part train --to DIR")
    several = len(by_level(publication.facts)) > 1
    choice = f", level={json.dumps(first.level)}" if several else ""
    code = [
        "import tg80\n",
        f'data = tg80.load("DIR"{choice})',
        f'positions = data["{first.name}"].read("positions")  # (n_frames, n_atoms, 3) angstrom',
    ]
    return (
        "```sh\n" + "\n".join([*commands, "tg80 validate DIR"]) + "\n```\n\n"
        "or any other way: the files are plain HDF5, and beside each lies its SHA-256"
        " (`sha256sum --check FILE.sha256`). `manifest.json` lists them all.\n\n"
        "```python\n" + "\n".join(code) + "\n```"
    )


def _folds(publication: Publication) -> str:
    split = publication.split
    if split is None:
        return "This version comes without a split."
    rows = [
        {
            "fold": fold.index,
            "clusters held out": ", ".join(map(str, fold.ood_clusters)),
            **{part: len(publication.folds[fold.index][part]) for part in PARTS},
        }
        for fold in split.folds
    ]
    lists = publication.place("folds/fold-K.json")
    text = (
        f"Shards in each part of the folds of `{split.version}`; `{lists}` names them. Scores"
        " belong to a fold: train on its `train` alone. `val_time` and `test_time` are later"
        " stretches of the trajectories of `train`.\n\n" + _table(rows)
    )
    if publication.outside:
        listed = ", ".join(
            f"`{name}`" + (f" (same connectivity as `{twin}`)" if twin else "")
            for name, twin in publication.outside.items()
        )
        text += f"\n\nOutside the folds, because the split does not hold them: {listed}."
    return text


def _pictures(publication: Publication) -> str:
    return "\n".join(
        f"![{text}, {level}]({plot_path(publication, level, plot)})"
        for level in sorted(by_level(publication.facts))
        for plot, text in PLOTS.items()
    )


def _physics_and_cost(facts: Facts) -> list[str]:
    parts = ["## Physics"]
    for level, shards in by_level(facts).items():
        settings = _settings(shards[0])
        values = {"method": _METHODS.get(settings.get("method", ""), "not stated")}
        values |= {
            label: _number(settings[key])
            for key, label in _LEVEL_SETTINGS.items()
            if settings.get(key) is not None
        }
        values |= {
            label: _distinct(get(fact.metadata) for fact in shards)
            for label, get in _RUN_SETTINGS.items()
        }
        rows = [{"setting": label, "value": value} for label, value in values.items()]
        parts += [f"### Level `{level}`", _table(rows)]
    return [*parts, "## Cost and hardware", _cost(facts)]


def _settings(fact: ShardFacts) -> dict[str, Any]:
    """Settings of the level: as the shard says, and by the level's name where it is silent."""
    level, stated = fact.metadata.level, fact.metadata.level_settings
    known = LEVELS[level].settings() if level in LEVELS else {}
    return known | {key: value for key, value in stated.items() if value is not None}


def _cost(facts: Facts) -> str:
    """What the data cost and on what they were made, as far as the shards say."""
    rows = []
    for level, shards in by_level(facts).items():
        evaluations = sum(
            fact.metadata.statistics.get("level_evaluations")
            or round(fact.metadata.length_fs / fact.metadata.time_step_fs) + 1
            for fact in shards
        )
        cycles = [fact.scf_cycles for fact in shards if fact.scf_cycles is not None]
        mean = f"{sum(cycles) / len(cycles):.1f}" if len(cycles) == len(shards) else "not told"
        seconds = [fact.metadata.statistics.get("cpu_seconds") for fact in shards]
        known = [second for second in seconds if isinstance(second, int | float)]
        hours = f"{sum(known) / 3600:.2f}" if known else "not recorded"
        if 0 < len(known) < len(shards):
            hours += f" in {len(known)} of {len(shards)} trajectories, else not recorded"
        rows.append(
            {
                "level": f"`{level}`",
                "evaluations of energy and forces (production)": evaluations,
                "SCF cycles, mean": mean,
                "CPU hours": hours,
            }
        )
    machines = _distinct(_listed(fact.metadata.platform) for fact in facts)
    programs = _distinct(_listed(fact.metadata.versions) for fact in facts)
    processor = any("cpu" in fact.metadata.platform for fact in facts)
    return (
        f"{_table(rows)}\n\nHardware, as recorded: {machines or 'not recorded'}."
        + ("" if processor else " The model of the processor was not recorded.")
        + f"\nSoftware: {programs or 'not recorded'}."
    )


def _quality_ranges(facts: Facts) -> str:
    """Ranges of the quality figures, a row a level; `tg80 info` shows every shard."""
    rows = []
    for level, shards in by_level(facts).items():
        drifts = [fact.checks["drift"] for fact in shards]
        kelvin = [fact.checks["temperature"].value for fact in shards]
        worst = max(drifts, key=lambda check: abs(check.value))
        kept = sum(check.verdict == "ok" for check in drifts)
        largest = f"{_signed(worst.value)} (limit {worst.threshold:g})"
        net_force = max(fact.checks["net_force"].max or 0.0 for fact in shards)
        rows.append(
            {
                "level": f"`{level}`",
                "largest drift / meV/atom/ps": largest,
                "drift proven under its limit": f"{kept} of {len(shards)}",
                "mean T / K": f"{min(kelvin):.1f} to {max(kelvin):.1f}",
                "largest net force before projection / eV/A": f"{net_force:.1e}",
                "smallest gap / eV": f"{min(fact.checks['gap'].value for fact in shards):.2f}",
                "flags": sum(sum(fact.n_flagged.values()) for fact in shards),
            }
        )
    return _table(rows)


def _quality_of_shards(facts: Facts) -> str:
    rows = []
    for fact in facts:
        drift, kelvin = fact.checks["drift"], fact.checks["temperature"]
        flags = ", ".join(f"{name} {count}" for name, count in fact.n_flagged.items() if count)
        rows.append(
            {
                "shard": fact.id,
                "level": f"`{fact.metadata.level}`",
                "frames": fact.metadata.n_frames,
                "fs": f"{fact.metadata.length_fs:g}",
                "T / K": f"{kelvin.value:.1f} +- {_error(kelvin, '.1f')}",
                "drift / meV/atom/ps": f"{_signed(drift.value)} +- {_error(drift, '.3f')}",
                "limit": f"{drift.threshold:g}",
                "verdict": drift.verdict,
                "net force, RMS / eV/A": f"{fact.checks['net_force'].value:.1e}",
                "smallest gap / eV": f"{fact.checks['gap'].value:.2f}",
                "flagged frames": flags or "none",
            }
        )
    return _table(rows)


def _warnings_and_flaws(facts: Facts) -> list[str]:
    """Every warning of `tg80 validate`, and what the facts and the method imply is wanting."""
    warnings = [
        f"- `{fact.id}` (`{fact.metadata.level}`): {text}"
        for fact in facts
        for text in fact.warnings
    ]
    methods = {_settings(fact).get("method") for fact in facts}
    flaws = []
    if "xtb" in methods:
        flaws.append(
            "GFN2-xTB is a parametrised tight-binding method: its surface is smooth and plausible, "
            "not that of DFT. Nothing learned from it is a statement about DFT."
        )
    if "rks" in methods:
        flaws.append(
            "PBE/def2-SVP: no dispersion correction, a small basis, and the self-interaction of a "
            "semilocal functional (barriers too low, charge too spread)."
        )
    flaws += [
        "Nuclei are classical: no zero-point motion, no tunnelling.",
        "Isolated molecules in vacuum, without overall rotation or translation.",
        "Every trajectory starts from one conformer; what is slower than it lasts is not sampled.",
    ]
    if short := [f"`{fact.id}`" for fact in facts if fact.checks["drift"].verdict != "ok"]:
        flaws.append(f"The drift is not proven to be under its limit in {', '.join(short)}.")
    early = [fact for fact in facts if fact.metadata.end != "complete"]
    flaws += [f"`{fact.id}` ended early: {fact.metadata.end}." for fact in early]
    none = "None: `tg80 validate` has nothing to say about these files."
    return [
        f"## Warnings\n\n{chr(10).join(warnings) or none}",
        "## Known flaws\n\n" + "\n".join(f"- {flaw}" for flaw in flaws),
    ]


def _table(rows: Sequence[dict[str, Any]]) -> str:
    """A Markdown table; the keys of a row are the heading."""
    lines = [rows[0], ["---"] * len(rows[0]), *(row.values() for row in rows)]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def _distinct(values: Iterable[Any]) -> str:
    """The different values there are; more than three numbers as their range."""
    found = sorted({v for v in values if v not in (None, "")}, key=lambda v: (str(type(v)), v))
    if len(found) > 3 and all(isinstance(value, int | float) for value in found):
        return f"{found[0]:g} to {found[-1]:g}"
    return "; ".join(map(_number, found))


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _signed(value: float) -> str:
    """Three decimals, and no minus before a zero."""
    text = f"{value:.3f}"
    return text.removeprefix("-") if float(text) == 0 else text


def _error(check: Check, form: str) -> str:
    return "?" if check.error is None else format(check.error, form)


def _listed(entries: dict[str, Any]) -> str:
    return ", ".join(f"{key} {entries[key]}" for key in sorted(entries))


def main(arguments: Iterable[str] | None = None) -> None:
    """Make the card of a folder anew."""
    parser = argparse.ArgumentParser(description="Make the data card of a folder of shards anew.")
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args(arguments).folder
    path = folder / CARD_NAME
    try:
        if (folder / RELEASE_MANIFEST).exists():
            raise UserError(f"{folder}: is published and never changes; nor does its card")
        text = path.read_text(encoding="utf-8") if path.exists() else f"# {folder.resolve().name}\n"
        write_atomically(path, folder_card(text, survey(folder)).encode())
    except Tg80Error as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
