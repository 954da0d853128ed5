"""Plan, from headers alone, what a load reads and how much memory it needs."""
