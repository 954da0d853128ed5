"""Texts in the user's language, and sizes and durations as text."""
