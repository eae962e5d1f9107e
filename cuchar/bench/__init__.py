"""`cuchar bench`: how fast a training step is, beside PyTorch's and beside what the machine could do.

configurations.py says what is timed, and arithmetic.py how many operations and bytes that takes. Whoever is timed is a
contender: cuchar (cuchar_contender.py), or a peer, which is PyTorch in one of several ways (torch_contender.py). Each
contender works in a process of its own (worker.py, processes.py). lineup.py starts those that take part, and timing.py
lets them take turns. run.py and sweep.py put the figures together, results.py keeps and compares them, tables.py and
plot.py show them.
"""
