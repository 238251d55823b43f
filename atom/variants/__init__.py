"""What the ablations put in a layer's place."""
