"""`cuchar bench`: how fast cuchar trains, draws and scores, beside others and beside what the machine could do.

configurations.py says what is timed, and arithmetic.py how many operations and bytes that takes. Whoever is timed is a
contender: cuchar (cuchar_contender.py), or a peer (torch_contender.py with torch_drawing.py, jax_contender.py, and
onnx_contender.py with onnx_graphs.py); contender.py has the table of them. Each contender works in a process of its own
(worker.py, processes.py). lineup.py starts those that take part, and timing.py lets them take turns. run.py and sweep.py put
the figures together, results.py keeps and compares them, tables.py and plot.py show them.
"""
