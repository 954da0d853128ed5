"""The doors to transformers and peft, and what keeps their changes to one thread."""
