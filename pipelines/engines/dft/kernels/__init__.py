"""Compiled loops over basis functions and grid points."""
