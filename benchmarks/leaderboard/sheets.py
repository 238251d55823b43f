"""The tables of reports, by the names that reports have for them."""

from tg80.console import Table as Sheet
from tg80.console import print_tables as print_sheets

__all__ = ["Sheet", "print_sheets"]
