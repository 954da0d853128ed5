"""One load: its handle, its thread and its stages."""
