"""From committed parts to a finished shard: flags, statistics, metadata; and checking it later."""

import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.dynamics.cost import Cost
from pipelines.dynamics.integrators import Body
from pipelines.dynamics.parts import read_parts
from pipelines.recipe import Recipe
from tg80.chemistry.molecule import Molecule
from tg80.constants import CODATA_YEAR
from tg80.files import verify
from tg80.shards.metadata import ShardMetadata
from tg80.shards.quality import judge
from tg80.shards.shard import Shard, write_shard
from tg80.shards.versions import package_versions


def assemble(
    path: Path,
    parts: Sequence[tuple[Path, str]],
    *,
    molecule: Molecule,
    recipe: Recipe,
    replica: int,
    body: Body,
    geometry: dict[str, np.ndarray],
    start: dict[str, Any],
    cost: Cost | None,
    inner: dict[str, Any] | None,
    end: str,
) -> None:
    """Write one shard from its part files.

    Args:
        path: the shard.
        parts: part files with their checksums, in order.
        molecule: of the trajectory.
        recipe: of the run.
        replica: of the trajectory.
        body: degrees of freedom and symmetry of the molecule.
        geometry: `positions` and `hessian` of the relaxed start conformer.
        start: `target_energy_ev` and `source` of a mean-energy start, empty for a canonical one.
        cost: of the production; None if unknown.
        inner: what the last checkpoint says of the inner potential; None if none was learned.
        end: `complete`, or why it ends.

    Raises:
        CorruptFile: a part is not what its checksum says; the message names it.
    """
    frames = read_parts(parts)
    level = recipe.resolved_level()
    machine = {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "system": platform.system(),
    }
    if cost is not None:
        machine["cpu"] = " and ".join(cost.processors)
    of_molecule = ("name", "smiles", "mapped_smiles", "inchikey", "formula", "charge", "bonds")
    metadata = ShardMetadata(
        **{name: getattr(molecule, name) for name in of_molecule},
        level=level.name,
        level_settings=level.model_dump(mode="json"),
        recipe=recipe.stated(),
        seed=recipe.seed,
        versions=package_versions(),
        software={"codata": CODATA_YEAR},
        integrator=recipe.integrator,
        ensemble=recipe.thermostat,
        temperature_k=recipe.temperature_k,
        time_step_fs=recipe.time_step_fs,
        store_every_fs=recipe.of_replica(replica).store_every_fs,
        platform=machine,
        replica=replica,
        n_frames=len(frames["time"]),
        length_fs=float(frames["time"][-1]),
        degrees_of_freedom=body.n_degrees,
        linear=body.linear,
        start="mean-energy" if start else "canonical",
        target_energy_ev=start.get("target_energy_ev"),
        energy_source=start.get("source", "nvt-frame"),
        end=end,
        author="the TG80 authors",
    )
    static = {
        "atomic_numbers": np.asarray(molecule.atomic_numbers),
        "masses": body.masses,
        "relaxed_positions": geometry["positions"],
        "hessian": geometry["hessian"],
    }
    quality = judge(frames, static, metadata)
    statistics = quality.statistics()
    if cost is not None:
        statistics["cpu_seconds"] = round(cost.cpu_seconds, 3)
    if inner is not None:
        statistics["level_evaluations"] = inner["n_evaluations"] + 1
        statistics["inner_potential"] = {
            "fits": inner["n_fits"], "labels": inner["n_seen"], "sha256": inner["sha256"],
        }  # fmt: skip
    metadata = ShardMetadata.model_validate(dict(metadata) | {"statistics": statistics})
    write_shard(path, frames | static | {"quality_flags": quality.flags}, metadata)


def verified_metadata(path: Path) -> ShardMetadata:
    """What a finished shard says of itself, after its checksum was compared.

    Raises:
        CorruptFile: it is not what its checksum says, or the checksum is missing.
    """
    advice = f"move it away to make the trajectory again, or run `tg80 validate {path}`"
    verify(path, required=True, advice=advice)
    with Shard(path) as shard:
        return shard.metadata
