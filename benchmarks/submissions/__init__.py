"""Joining from outside: templates to fill in, submissions to check and score, archives to send."""
