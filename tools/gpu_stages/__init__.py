"""What `make gpu` does, a module a stage. In this order, each with its time limit in seconds."""

LIMITS = {
    "compile": 45,
    "tests": 170,
    "parity": 80,
    "sanitize": 120,
    "speed": 125,
    "run": 50,
}  # together under ten minutes
