"""The documentation; `generate.py` writes what its pages take from the code."""
