"""Runs a program to which the rights of files apply, also where the tests run as root."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence

import pytest

TG80 = (sys.executable, "-m", "pipelines.cli")


def run_without_rights(arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run a program that cannot read what its user has no right to read.

    Root reads everything by two capabilities; without them its own files of mode 000 are closed to
    it. Skips the test where root cannot lay them down.
    """
    prefix: list[str] = []
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("root may read everything, and there is no setpriv to take that away")
        prefix = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"]
    return subprocess.run(
        [*prefix, *arguments], capture_output=True, text=True, timeout=200, check=False
    )
