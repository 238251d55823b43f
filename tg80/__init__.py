"""TG80: ab initio molecular dynamics of 80 organic compounds, its file format and its splits."""

__version__ = "0.1.0"
