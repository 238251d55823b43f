"""`atom-modes`: ATOM on top of motion by a molecule's own force constants."""
