"""TG80: ab initio molecular dynamics of 80 organic compounds, its file format and its splits."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tg80.dataset import load as load

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """`tg80.load`, imported when it is asked for: what it needs takes a second to import."""
    if name == "load":
        from tg80.dataset import load

        return load
    raise AttributeError(f"module 'tg80' has no attribute {name!r}")
