"""What checks the kernels without a GPU, and what runs everything that needs one."""
