"""Export to TFLite files for phones."""
