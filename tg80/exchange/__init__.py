"""Other formats: what is written for other tools, and public sets that are read."""
