"""What comes from outside is checked, and what leaves is cleaned."""
