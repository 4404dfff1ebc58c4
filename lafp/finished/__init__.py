"""Finished models on disk, one step of an agent as a pure function, and its export to a file."""
