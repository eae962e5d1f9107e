"""Engines: the same few whole-sequence operations, on different machines."""
