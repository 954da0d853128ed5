"""What a load will move and hold, from headers alone."""
