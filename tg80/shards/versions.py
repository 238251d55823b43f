"""Which packages' versions a shard records: those that decide its bits."""

from importlib.metadata import version

PACKAGES = ("tg80", "pyscf", "tblite", "rdkit", "ase", "numpy", "scipy", "numba", "h5py")


def package_versions() -> dict[str, str]:
    """Installed version of each of `PACKAGES`."""
    return {name: version(name) for name in PACKAGES}
