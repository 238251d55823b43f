"""What a file of the dataset holds, and whether it is right."""
