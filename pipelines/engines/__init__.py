"""Energy and forces of a geometry, by level of theory."""
