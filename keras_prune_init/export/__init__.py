"""Export for phones."""
