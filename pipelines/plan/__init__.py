"""What a run will cost, from a few timed steps."""
