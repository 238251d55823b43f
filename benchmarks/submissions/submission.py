"""Submissions from strangers: read where they can do no harm, checked, compared with the data."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from benchmarks.submissions.checks import check_finite, check_plausible
from benchmarks.submissions.layout import STATE_DATASETS, Template
from benchmarks.submissions.packing import check_card, unpacked
from benchmarks.submissions.parsing import Submission, parse
from benchmarks.submissions.safe_hdf5 import check_file
from tg80.errors import CorruptFile, UserError
from tg80.untrusted.apart import run_apart

_AGAIN = "begin with the template again"
_STATE_TOLERANCE = 1e-4  # A and A/fs: rounding of other machines is far below


@contextmanager
def opened(path: Path, *, as_is: bool = False) -> Iterator[Submission]:
    """The submission in a file or archive, for the time of the block.

    Args:
        as_is: take positions that look like another unit, frame or order.

    Raises:
        UserError: anything is wrong with it.
    """
    with unpacked(path) as inside:
        read_apart(inside.file, path)
        submission = read_submission(inside.file, as_is=as_is, shown=path)
        if inside.card is not None:
            check_card(inside.card, submission)
        yield submission


def read_apart(source: Path, shown: Path) -> None:
    """Read a file to its end in a process that may crash: HDF5 does so on altered bytes.

    Raises:
        UserError: the process finds something wrong, crashes, or does not end.
    """
    check_file(source, shown)
    seconds = 20 + source.stat().st_size // 5_000_000
    try:
        run_apart("benchmarks.submissions.parsing:check", str(source), str(shown), seconds=seconds)
    except CorruptFile as error:
        raise UserError(str(error)) from None


def read_submission(source: Path, *, as_is: bool = False, shown: Path | None = None) -> Submission:
    """Read and check a filled template, as far as the file alone tells.

    Args:
        as_is: take positions that look like another unit, frame or order.
        shown: what messages call the file.

    Raises:
        UserError: anything is wrong; the message says what, where and what to do.
    """
    found = parse(source, shown or source)
    everything = (str(found.shown), found.template, found.predictions, found.failed)
    check_finite(*everything)
    if not as_is:
        check_plausible(*everything)
    return found


def check_issued(submission: Submission, issued: Template) -> None:
    """Refuse what was not made from the template that the data give.

    Raises:
        UserError: another version of the task, split or data, other entries or altered starts.
    """
    path, sent = submission.shown, submission.template
    for key, advice in (
        ("task_sha256", f"the task has changed since; {_AGAIN}"),
        ("split_sha256", "another split was used; name it by --split"),
        ("manifest_sha256", "it was made from other data; name their folder by --data"),
    ):
        if sent.header[key] != issued.header[key]:
            raise UserError(f"{path}: {key} is not that of {issued.header['task']} here: {advice}")
    strange = sorted(set(sent.entry.tolist()) ^ set(issued.entry.tolist()))
    if strange or sent.shape != issued.shape or (sent.entry != issued.entry).any():
        which = f", such as {strange[0]}" if strange else ""
        raise UserError(f"{path}: entries are not those of this fold and parts{which}; {_AGAIN}")
    for name in STATE_DATASETS:
        mine, theirs = getattr(issued, name), getattr(sent, name)
        same = (
            np.array_equal(mine, theirs)
            if mine.dtype.kind != "f"
            else np.allclose(mine, theirs, rtol=0, atol=_STATE_TOLERANCE)
        )
        if not same:
            raise UserError(f"{path}: {name} is not what was handed out; {_AGAIN}")
