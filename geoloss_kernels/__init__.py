"""Fused kernels for geometric segmentation losses."""
