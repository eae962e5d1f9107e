"""`cuchar bench`: how fast a training step is, beside PyTorch's and beside what the machine could do.

configurations and arithmetic say what is timed and what it costs by count. cuchar_contender and torch_contender do it, each
in a process of its own (worker, processes); lineup starts those that take part, and timing lets them take turns. run and
sweep put the figures together, results keeps and compares them, tables and plot show them.
"""
