"""The CUDA engine: which kernels a model gets, their launches, and what lies on the device meanwhile."""
