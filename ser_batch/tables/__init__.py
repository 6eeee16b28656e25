"""Tables that users bring: read whatever saved them, their rows matched with files."""
