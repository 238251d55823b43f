"""A whole run: its folder, its workers, its progress."""
