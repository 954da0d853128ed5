"""The interfaces to transformers and peft, and patches that keep their changes to one thread."""
