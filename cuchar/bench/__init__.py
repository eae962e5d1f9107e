"""`cuchar bench`: how fast a training step is, beside PyTorch's and beside what the machine could do.

configurations and arithmetic say what is timed and what it costs by count; ours and torch_peer do it, each in
a process of its own (worker, processes) and by turns (turns); run and sweep put the figures together, results
keeps and compares them, tables and plot show them.
"""
