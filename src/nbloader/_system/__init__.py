"""What the operating system knows: threads, memory, storage, and the user's state folder."""
