"""The CUDA kernels on the CPU: see `cuda_on_host.h`."""
