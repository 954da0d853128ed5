"""A load's options, and the code that chooses them."""
