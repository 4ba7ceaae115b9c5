"""Comparison of predictions with references, as tables."""
