"""The C++ engine: kernels/cpu, compiled by the machine's compiler when it is first used."""
