"""TG80: ab initio molecular dynamics of 80 organic compounds, its file format and its splits.

import tg80

data = tg80.load("mini-xtb")
forces = data["methanol"].read("forces")
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tg80.dataset import load as load
    from tg80.shards.shard import Shard as Shard
    from tg80.shards.validate import validate as validate

__version__ = "0.1.0"
__all__ = ["Shard", "__version__", "load", "validate"]

_PLACES = {
    "load": "tg80.dataset",
    "Shard": "tg80.shards.shard",
    "validate": "tg80.shards.validate",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for: `import tg80` alone imports no library."""
    if name in _PLACES:
        return getattr(import_module(_PLACES[name]), name)
    raise AttributeError(f"module 'tg80' has no attribute {name!r}")
