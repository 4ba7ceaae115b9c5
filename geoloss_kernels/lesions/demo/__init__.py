"""A demonstration that needs no data: made-up subjects, training with two losses, tables and pictures."""
