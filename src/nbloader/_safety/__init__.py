"""Checks of input from outside, and redaction of output."""
