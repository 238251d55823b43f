"""Predictions to errors: metrics, alignment, validity, significance."""
