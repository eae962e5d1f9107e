"""The sizes that tests/gpu uses on a GPU and in a dry run: V, H, L, B, T of a window, if nothing else is said."""

from tools.gpu_stages.device import dry_run

RESIDENT = [
    (84, 64, 2, 32, 32),  # the notebook's; clusters of two from compute capability 9.0 on
    (84, 64, 2, 200, 9),  # more rows than multiprocessors
    (2, 1, 1, 1, 1), (68, 100, 1, 5, 33), (84, 33, 4, 13, 7), (7, 5, 3, 2, 40), (84, 16, 8, 4, 8),
]  # fmt: skip
PERSISTENT = [
    (68, 512, 2, 50, 20), (68, 257, 3, 13, 5), (1000, 33, 2, 3, 9), (2000, 130, 1, 2, 3), (84, 136, 2, 1, 1),
    (68, 256, 2, 50, 50), (68, 100, 4, 300, 7),
]  # fmt: skip
STEPWISE = [(84, 1100, 2, 13, 3), (600, 2048, 1, 5, 4)]
DOUBLE = [(20, 32, 2, 5, 40), (84, 64, 2, 3, 20), (68, 200, 2, 4, 9), (700, 20, 3, 2, 5), (9, 800, 2, 3, 2)]
ROUNDED = [(84, 64, 2, 32, 32), (68, 257, 3, 13, 5), (1000, 130, 2, 3, 9)]  # computed on tensor cores
TRAINED_V, TRAINED_HIDDEN = 84, {"resident": 64, "persistent": 256, "stepwise": 1100}
TRAINED = {"window": 20, "batch": 32}
SCALED_HIDDEN = 24  # hidden size of the model that is trained in fp16
EVALUATED_V, EVALUATED_HIDDEN = 50, {"resident": 16, "persistent": 81}
EVALUATED_ROWS = (1, 3, 48, 64)  # how many streams, chunks or windows are scored side by side
DRAWN = [2, 84, 600, 5000, 65_536]  # sizes of the vocabularies from which is drawn
if dry_run():
    RESIDENT, PERSISTENT, STEPWISE = [(5, 4, 2, 3, 3), (4, 3, 1, 2, 4)], [(4, 81, 2, 2, 3)], [(4, 260, 2, 2, 2)]
    EVALUATED_ROWS = (1, 3)
    DOUBLE, ROUNDED, DRAWN = [(5, 4, 2, 3, 3)], [(20, 33, 2, 5, 6)], [2, 84, 600]
    TRAINED_HIDDEN, TRAINED = {"resident": 16, "persistent": 81, "stepwise": 260}, {"window": 3, "batch": 2}
