"""Texts in the user's language, and sizes and times in words."""
