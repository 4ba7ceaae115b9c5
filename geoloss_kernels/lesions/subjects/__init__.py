"""Which files are one subject, and which split it belongs to."""
