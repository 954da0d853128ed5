"""Reading files ahead of their use, as fast as storage can."""
