"""Comparisons of models and settings, each with its report."""
