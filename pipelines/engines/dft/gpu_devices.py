"""Which GPUs there are, whether GPU4PySCF is fit for use, and which GPU this process takes.

Nothing here imports CuPy into this process: importing GPU4PySCF fixes, for good, which GPUs a
process sees, and a process that only starts workers should hold no GPU memory.
"""

import json
import os
import stat
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

from filelock import FileLock, Timeout

from tg80.errors import UserError

INSTALL = "GPU4PySCF is not installed: pip install 'tg80[gpu]'"
NO_DEVICE = "no CUDA device found; use --device cpu"
OLDEST = (1, 7, 0)
# Off by whole hartrees where basis functions lie far apart: pyscf/gpu4pyscf issue 754.
WRONG_ENERGIES = ("1.4.1", "1.4.3")

_PROBE = """
import json
found = {}
try:
    import cupy
    found["devices"] = cupy.cuda.runtime.getDeviceCount()
    import gpu4pyscf
    found["version"] = gpu4pyscf.__version__
except ModuleNotFoundError as error:
    found["missing"] = error.name
except Exception as error:
    found["error"] = " ".join(str(error).split()) or type(error).__name__
print(json.dumps(found))
"""
_PROBE_SECONDS = 300
# What CUDA says where there is no driver, no device, or none visible.
_NO_DEVICE_SIGNS = ("cudaErrorNoDevice", "cudaErrorInsufficientDriver", "no CUDA-capable device")

_held: list[FileLock] = []  # for as long as this process lives


@cache
def find_gpus() -> int:
    """Number of CUDA devices that GPU4PySCF can use here, at least 1.

    Raises:
        UserError: CuPy or GPU4PySCF is missing, or of a version that can't be trusted, or there
            is no device.
    """
    try:
        answer = subprocess.run(
            [sys.executable, "-c", _PROBE], capture_output=True, text=True, timeout=_PROBE_SECONDS
        )
    except subprocess.TimeoutExpired:
        raise UserError(
            f"the GPU did not answer within {_PROBE_SECONDS} s; see nvidia-smi, or use --device cpu"
        ) from None
    lines = answer.stdout.strip().splitlines()
    if not lines or not lines[-1].startswith("{"):
        # A library may end the process before Python can catch anything.
        reason = (answer.stderr.strip().splitlines() or [f"exit code {answer.returncode}"])[-1]
        raise UserError(f"GPU4PySCF can't be used: {reason}; use --device cpu")
    return judge_probe(json.loads(lines[-1]))


def judge_probe(found: dict) -> int:
    """The number of devices in what a look at this machine found.

    Args:
        found: `devices` and `version`, or the name of a module in `missing`, or an `error`.

    Raises:
        UserError: as `find_gpus`.
    """
    if "missing" in found:
        missing = found["missing"] or ""
        if missing.split(".")[0] in ("cupy", "gpu4pyscf"):
            raise UserError(INSTALL)
        raise UserError(f"GPU4PySCF lacks module {missing!r}: pip install 'tg80[gpu]'")
    error = found.get("error", "")
    if found.get("devices") == 0 or any(sign in error for sign in _NO_DEVICE_SIGNS):
        raise UserError(NO_DEVICE)
    if error:
        raise UserError(f"GPU4PySCF can't be used: {error}; use --device cpu")
    check_version(found["version"])
    return int(found["devices"])


def check_version(version: str) -> None:
    """Refuse a GPU4PySCF known to be wrong, or older than what this package was written for.

    Raises:
        UserError: naming the version and what to install.
    """
    upgrade = "pip install --upgrade 'tg80[gpu]'"
    if version in WRONG_ENERGIES:
        raise UserError(f"GPU4PySCF {version} is known to give wrong energies: {upgrade}")
    digits = [part for part in version.split(".")[:3] if part.isdigit()]
    if tuple(map(int, digits)) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise UserError(f"GPU4PySCF {version} is older than {oldest}: {upgrade}")


def take_gpu(n_gpus: int) -> None:
    """Let this process see one GPU only, the one with the fewest of our processes.

    GPU4PySCF would spread every single molecule over all GPUs it sees, which for small molecules
    is slower than one GPU. To be called before CuPy is imported; later it changes nothing.

    Args:
        n_gpus: GPUs this process sees now.
    """
    if n_gpus < 2 or "cupy" in sys.modules:
        return
    shown = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    names = shown.split(",") if shown else [str(index) for index in range(n_gpus)]
    os.environ["CUDA_VISIBLE_DEVICES"] = names[_free_place(names)]


def _free_place(names: list[str]) -> int:
    """Index of the GPU with the fewest takers; the place is held until this process ends.

    A place is a locked file: the system unlocks it however the process ends.
    """
    folder = Path(tempfile.gettempdir()) / f"tg80-gpus-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    facts = folder.lstat()
    if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.getuid():  # put there by another user
        return os.getpid() % len(names)
    for round_ in range(1000):
        for index, name in enumerate(names):
            lock = FileLock(folder / f"{name.strip()}-{round_}.lock")
            try:
                lock.acquire(timeout=0)
            except Timeout:
                continue
            _held.append(lock)
            return index
    return os.getpid() % len(names)
