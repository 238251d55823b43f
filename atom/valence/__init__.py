"""Valence terms of a molecule: their topology, parameters, energy, stiffness and motion."""
