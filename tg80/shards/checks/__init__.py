"""What `validate` looks at in the frames, one file for each kind of physics."""
