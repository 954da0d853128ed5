"""The events of a load, and the state that follows from them."""
