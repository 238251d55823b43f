"""A finished stage goes on: its last checkpoint is kept, its frames come back from the shard.

A stage resumes where a segment of full length ends, so that a trajectory made longer holds the same
bits as one made at that length in one go.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.dynamics.checkpoint import (
    checkpoint_paths,
    read_arrays,
    write_arrays,
    write_checkpoint,
)
from pipelines.dynamics.parts import work_folder, write_part
from pipelines.dynamics.segments import Stage, StagePlan
from tg80.errors import CorruptFile
from tg80.files import make_folder, sync_folder, write_atomically
from tg80.shards.shard import Shard


def kept_checkpoint(folder: Path, name: str, replica: int) -> Path:
    """Where the checkpoint lies from which a finished trajectory goes on."""
    return work_folder(folder, name) / f"end-r{replica}.npz"


def keep_checkpoint(stage: Stage, kept: Path) -> None:
    """Copy the checkpoint from which a longer stage goes on; an empty one if that is its start."""
    for path, header in _newest_first(stage.folder):
        if _ends_full_segment(header, stage.plan):
            write_atomically(kept, path.read_bytes())
            return
    write_arrays(kept, {}, {"identity": stage.plan.identity, "step": None})


def drop_short_segment(stage: Stage) -> None:
    """Forget the last segment of a stage that has become longer, if the old end cut it short."""
    for path, header in _newest_first(stage.folder):
        if header["step"] >= stage.plan.n_steps or _ends_full_segment(header, stage.plan):
            return
        path.unlink()


def reopen(stage: Stage, kept: Path, shard: Path) -> None:
    """Make the folder of a finished stage again, at once as a whole.

    Args:
        stage: of the same identity, longer.
        kept: what `keep_checkpoint` wrote.
        shard: the frames.

    Raises:
        CorruptFile: the checkpoint is gone, damaged or another stage's.
    """
    advice = f"move {shard.name} away to make the trajectory again in full"
    if not kept.is_file():
        raise CorruptFile(f"{shard}: can't become longer, its checkpoint {kept} is gone; {advice}")
    arrays, header = read_arrays(kept)
    if header["identity"] != stage.plan.identity:
        raise CorruptFile(f"{kept}: was made with other settings or another start; {advice}")
    fresh = stage.folder.with_name(f".{stage.folder.name}.tmp")
    shutil.rmtree(fresh, ignore_errors=True)
    make_folder(fresh)
    if header["step"] is not None:
        part = fresh / "part-000000.npz"
        digest = write_part(part, _frames(shard, header["step"]))
        header["parts"] = [(part.name, digest)]
        write_checkpoint(fresh, header["segment"], arrays, header)
    os.replace(fresh, stage.folder)
    sync_folder(stage.folder.parent)


def _frames(path: Path, last_step: int) -> dict[str, np.ndarray]:
    """The frames of a shard up to a step, as they were before they were judged."""
    with Shard(path) as shard:
        n_frames = int(np.searchsorted(shard.read("step"), last_step, side="right"))
        frames = {name: shard.read(name, stop=n_frames) for name in shard.frame_fields}
    return frames | {"quality_flags": np.zeros_like(frames["quality_flags"])}


def _ends_full_segment(header: dict[str, Any], plan: StagePlan) -> bool:
    """Whether the end of the stage did not cut the segment; not told where its length varies."""
    step = header["step"]
    if step < header.get("n_steps", step):
        return True
    return "inner" not in header and step % plan.steps_per_segment == 0


def _newest_first(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The checkpoints that are whole, with their headers."""
    for path in checkpoint_paths(folder):
        try:
            yield path, read_arrays(path)[1]
        except CorruptFile:
            continue
