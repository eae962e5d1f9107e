"""What `make gpu` does: a module for each stage. LIMITS has them in their order, with time limits in seconds."""

LIMITS = {
    "compile": 45,
    "tests": 170,
    "parity": 80,
    "sanitize": 120,
    "speed": 125,
    "run": 50,
}  # together under ten minutes
