"""The pictures of the documentation: drawing.py draws, every other module has the figures of one subject."""
