"""Models on a force field: frames they learn from, losses of forces, dynamics from every start."""
