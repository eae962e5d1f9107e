"""Devices: what kernels run on, and what compiles them."""
