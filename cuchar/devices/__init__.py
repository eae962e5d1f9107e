"""Devices: what kernels run on (a GPU or the emulator), and the compilers that make kernels for them."""
