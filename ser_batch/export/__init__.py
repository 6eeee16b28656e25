"""A run for other tools: tables and label tracks."""
