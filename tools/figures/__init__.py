"""The pictures of the documentation. drawing.py draws shapes; every other module has the figures of one subject."""
