"""The C++ engine: the sources in kernels/cpu, compiled by the machine's compiler when they are first used."""
