"""A published version: made, described, fetched."""
