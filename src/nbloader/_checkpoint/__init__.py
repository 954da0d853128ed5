"""What a checkpoint is: where its files are, and what they say."""
