"""cuchar trains character-level LSTM language models: text in, a model that writes like it out.

import cuchar

model = cuchar.train("data/shakespeare.txt", epochs=1)
print(model.sample(300, prime="ROMEO"))
print(model.score("To be, or not to be").bits_per_char)
model = cuchar.load("runs/shakespeare-20260101-120000")
model = cuchar.resume("runs/shakespeare-20260101-120000", epochs=2)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cuchar.api import import_model, load, resume, train
    from cuchar.callbacks import Callback, StopTraining
    from cuchar.continuations import Continuation
    from cuchar.dynamic import DynamicConfig
    from cuchar.errors import CucharError
    from cuchar.evaluation import Score
    from cuchar.interrupts import Interrupted
    from cuchar.line_scores import LineScore
    from cuchar.model import Model
    from cuchar.tensorboard.callback import TensorBoard

__version__ = "0.1.0"
__all__ = [
    "Callback", "Continuation", "CucharError", "DynamicConfig", "Interrupted", "LineScore", "Model", "Score",
    "StopTraining", "TensorBoard", "import_model", "load", "resume", "train",
]  # fmt: skip

# A name's module is imported when the name is first asked for (PEP 562): the command line imports this package before
# it can run a line of its own, and an interrupt would meet NumPy half imported.
_MODULES = {
    "Continuation": "continuations", "CucharError": "errors", "DynamicConfig": "dynamic", "Interrupted": "interrupts", "LineScore": "line_scores",
    "Model": "model", "Score": "evaluation", "import_model": "api", "load": "api", "resume": "api", "train": "api", "Callback": "callbacks",
    "StopTraining": "callbacks", "TensorBoard": "tensorboard.callback",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
