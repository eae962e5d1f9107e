"""Draws how runs went: into files by matplotlib, in terminals by dots of braille."""
