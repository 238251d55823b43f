"""`atom-modes`: ATOM on top of a molecule's own normal modes."""
