"""Masks and probabilities of a trained network."""
