"""The errors a user may see: one line each that says what, where, and what to do."""


class Tg80Error(Exception):
    """A failure the program can name. Commands print its message and exit with `exit_code`.

    Several findings are several arguments; each is printed on a line of its own.
    """

    exit_code = 1

    def __str__(self) -> str:
        return "\n".join(map(str, self.args))


class UserError(Tg80Error):
    """The user's input is at fault: a bad option, list, file or folder. Exit code 2."""

    exit_code = 2


class CorruptFile(Tg80Error):
    """A file of ours is cut short, altered or not what its checksum says."""


class RunFailed(Tg80Error):
    """A computation failed for a reason that is named in the message."""


_EXTRAS = {
    "rdkit": "generate",
    "ase": "generate",
    "threadpoolctl": "generate",
    "numba": "generate",
    "tblite": "generate",
    "pyscf": "generate",
    "dask": "generate",
    "distributed": "generate",
    "umap": "generate",
    "sklearn": "generate",
    "cryptography": "generate",
    "matplotlib": "generate",
    "torch": "bench",
    "e3nn": "bench",
    "safetensors": "bench",
    "mace": "mace",
    "gpu4pyscf": "gpu",
    "cupy": "gpu",
    "dask_jobqueue": "hpc",
}


def missing_package(error: ModuleNotFoundError) -> str:
    """Which package an import did not find, and what to install."""
    package = (error.name or "").partition(".")[0]
    extra = _EXTRAS.get(package)
    wanted = f"'tg80[{extra}]'" if extra else package
    return f"the package {package} is not installed; run: pip install {wanted}"
