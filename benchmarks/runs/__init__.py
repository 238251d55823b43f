"""One model on one fold: fit, score, record."""
