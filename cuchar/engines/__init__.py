"""Engines: the same few operations on whole windows, each engine for another kind of machine."""
