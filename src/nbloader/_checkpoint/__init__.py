"""Checkpoints: where their files are, and what the files contain."""
