"""What this process has loaded, who waits for it, and who holds it."""
