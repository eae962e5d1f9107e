"""What `make gpu` does, a module a stage. In this order, each with its time limit in seconds."""

LIMITS = {
    "compile": 60,
    "tests": 130,
    "parity": 100,
    "sanitize": 120,
    "speed": 110,
    "run": 75,
}  # together under ten minutes
