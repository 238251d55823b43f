"""A valence force field whose parameters a network predicts from the bond graph."""
