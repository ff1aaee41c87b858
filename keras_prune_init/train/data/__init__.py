"""Images for training: where they come from and how they are changed."""
