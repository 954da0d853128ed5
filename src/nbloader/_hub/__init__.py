"""The one door to huggingface_hub, and bringing files from the Hub."""
