"""The operators in Triton, for NVIDIA and AMD GPUs: nothing to compile when the package is installed."""
