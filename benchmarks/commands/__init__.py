"""The commands of `atom-bench` that take models apart, one file each."""
