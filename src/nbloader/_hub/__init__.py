"""All use of huggingface_hub: looking up repositories, and downloading files from the Hub."""
