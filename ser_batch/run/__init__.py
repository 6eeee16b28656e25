"""A run on disk: written, read, compared, verified."""
