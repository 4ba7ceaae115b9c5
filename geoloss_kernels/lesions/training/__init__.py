"""Training of a 3-D lesion segmentation network."""
