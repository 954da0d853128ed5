"""What happens during a load, as events, and the state that follows from them."""
