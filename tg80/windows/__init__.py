"""Trajectories as a learner sees them: starts, lags, windows."""
