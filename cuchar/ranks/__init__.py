"""Data-parallel training: several processes, the ranks, share the rows of every batch."""
