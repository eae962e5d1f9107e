"""A short text, and trainings on it that take a moment: one for each discipline of batches; and the smallest of all."""

from dataclasses import replace

from cuchar.config import TrainConfig

TEXT = "the quick brown fox jumps over the lazy dog\n" * 40
SMALL = TrainConfig(
    hidden=9, layers=2, window=7, batch=5, epochs=3, lr=0.01, seed=3,
    log_every=6, sample_every=8, sample_length=20, save_every=10,
)  # fmt: skip
DISCIPLINES = {
    "windows": SMALL,
    "carried": replace(SMALL, carry_state=True),
    "everything": replace(
        SMALL, stride=3, dropout=0.3, weight_dropout=0.2, clip=0.5, weight_decay=0.1, schedule="cosine", warmup=9,
        val_fraction=0.1, val_split="streams", temperature=0.8,
    ),
    "carried, step schedule": replace(SMALL, carry_state=True, dropout=0.2, schedule="step", val_fraction=0.2),
}  # fmt: skip

TINY_TEXT = "the quick brown fox jumps over the lazy dog\n" * 3
TINY = TrainConfig(
    hidden=2, layers=1, window=5, batch=3, epochs=2, lr=0.01, seed=3,
    log_every=3, sample_every=5, sample_length=4, save_every=4,
)  # fmt: skip
TINY_EPOCH = 8  # steps
