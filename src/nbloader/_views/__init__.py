"""What a person sees, and what they click."""
