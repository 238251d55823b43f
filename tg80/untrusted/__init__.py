"""Files and texts from strangers, read so that they can do no harm."""
