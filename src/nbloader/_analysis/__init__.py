"""Loads compared: the ones so far, the next one, and why one was slow."""
