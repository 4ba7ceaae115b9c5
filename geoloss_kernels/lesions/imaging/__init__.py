"""Image files: one way to read and write them, their grids, and registration."""
