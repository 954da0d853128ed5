"""Operating system facts: threads, memory, storage, and the user's state folder."""
