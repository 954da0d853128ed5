"""The stages of a load, one module each."""
