"""What `make gpu` does, a module a stage. In this order, each with its time limit in seconds."""

LIMITS = {"tests": 150, "parity": 110, "sanitize": 130, "speed": 120, "run": 75}  # together under ten minutes
