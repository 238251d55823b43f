"""`tg80 plan`."""

import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.commands.options import (
    EquilibrationOption,
    IntegratorOption,
    LengthOption,
    LevelOption,
    ListOption,
    MemoryOption,
    OverridesOption,
    RecipeOption,
    ReplicasOption,
    SkipBadOption,
    StereoOption,
    StoreOption,
    WorkersOption,
)
from tg80.console import JsonOption, Table, console, print_tables
from tg80.untrusted.documents import print_json

if TYPE_CHECKING:
    from pipelines.plan.plan import Plan, Totals


def plan(
    molecule_list: ListOption = "tg80",
    stereo: StereoOption = "given",
    skip_bad: SkipBadOption = False,
    level: LevelOption = None,
    length_fs: LengthOption = None,
    equilibration_fs: EquilibrationOption = None,
    integrator: IntegratorOption = None,
    store_every_fs: StoreOption = None,
    replicas: ReplicasOption = 1,
    workers: WorkersOption = None,
    memory_gb: MemoryOption = None,
    probes: Annotated[int, typer.Option(min=1, help="Molecules to time.")] = 4,
    steps: Annotated[int, typer.Option(min=1, help="Timed steps of each molecule.")] = 8,
    recipe: RecipeOption = None,
    overrides: OverridesOption = None,
    as_json: JsonOption = False,
) -> None:
    """Estimate the time, memory and disk space of a run on this machine from a few timed steps.

    Real dynamics of a few molecules, the smallest and the largest among them, is timed; a power law
    gives the cost of the others.

    Example: tg80 plan --molecule-list smiles.txt --length-fs 1000 --workers 16
    """
    # Heavy imports wait until the options are known to be good.
    from pipelines.commands.molecules import listed_molecules
    from pipelines.engines.engine import Resources
    from pipelines.plan.plan import make_plan, plan_of_tg80
    from pipelines.recipe import load_recipe

    options = {
        "level": level,
        "length_fs": length_fs,
        "equilibration_fs": equilibration_fs,
        "integrator": integrator,
        "store_every_fs": store_every_fs,
    }
    settings = load_recipe(recipe, options, overrides)
    listed = listed_molecules(molecule_list, stereo, skip_bad, settings.resolved_level())
    resources = Resources() if memory_gb is None else Resources(memory_gb=memory_gb)
    with console.status("timing") as status:
        made = make_plan(
            listed.molecules,
            settings,
            replicas,
            workers or os.cpu_count() or 1,
            resources=resources,
            n_probes=probes,
            n_steps=steps,
            on_probe=lambda name: status.update(f"timing {name}"),
        )
    dataset = plan_of_tg80(made)
    if as_json:
        more = {"tg80": dataset and asdict(dataset.total), "left_out": listed.left_out_records()}
        print_json(made.as_dict() | more, indent=2)
    else:
        _show(made, dataset)


def _show(made: "Plan", dataset: "Plan | None") -> None:
    from pipelines.run.progress import format_duration

    xtb = made.recipe.resolved_level().method == "xtb"
    size = "atoms" if xtb else "basis"
    heading = ["molecule", "atoms", *([] if xtb else ["basis"])]
    heading += ["s/step", "time", "MB memory", "MB disk"]
    rows = [
        [
            cost.name,
            str(cost.n_atoms),
            *([] if xtb else [str(cost.size)]),
            f"{cost.step_s:.3g}{'*' if cost.measured else ' '}",
            format_duration(cost.total_s),
            f"{cost.memory_bytes / 1e6:.0f}",
            f"{(cost.shard_bytes + cost.work_bytes) / 1e6:.1f}",
        ]
        for cost in made.costs
    ]
    law, total = made.law, made.total
    scatter = "" if law.scatter is None else f", scatter {100 * law.scatter:.0f} %"
    lines = [] if made.assumption is None else [made.assumption]
    lines += [
        f"* timed here; the others by s/step = {law(1.0):.3g} x ({size})^"
        f"{law.exponent:.2f}{scatter}",
        f"total: {_span(total)} ({format_duration(total.wall_longest_first_s)} with the list "
        "sorted longest first); never less than the longest trajectory, "
        f"{format_duration(total.longest_trajectory_s)}",
        f"memory: {total.memory_per_worker_bytes / 1e6:.0f} MB a worker, "
        f"{total.memory_bytes / 1e9:.1f} GB for {total.n_workers}; "
        f"disk: {total.disk_bytes / 1e9:.2f} GB, {total.peak_disk_bytes / 1e9:.2f} GB on the way",
    ]
    if made.busy > 0.1:
        lines.append(
            f"other programs had {100 * made.busy:.0f} % of the core during the timings; times are "
            "corrected for that"
        )
    if dataset is None:
        lines.append("TG80: not told by timings of one size; use --molecule-list tg80")
    else:
        lines.append(
            f"TG80 ({len(dataset.costs)} compounds, {dataset.recipe.length_fs / 1000:g} ps each) "
            f"at this level: {_span(dataset.total)}"
        )
    print_tables([Table("", heading, rows)])
    for line in lines:
        print(line)


def _span(total: "Totals") -> str:
    """Worker time with its error, and wall time."""
    from pipelines.run.progress import format_duration

    error = "" if total.relative_error is None else f" +- {100 * total.relative_error:.0f} %"
    return (
        f"{format_duration(total.worker_s)}{error} of one worker, "
        f"{format_duration(total.wall_s)} with {total.n_workers}"
    )
