"""Which compounds and times a model may learn from: clusters, folds, rules."""
