"""The model of engines/base.py in plain NumPy, with matrix products that round their operands as the kernels do.

python tests/support/rounding_engine.py TEXT PRECISION STEPS    losses of the notebook's model, as JSON
"""

import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from support.learners import learner_of
from support.rounding import rounded

from cuchar.adam import Adam, LossScaling
from cuchar.config import ModelConfig, TrainConfig
from cuchar.corpus import load_corpus
from cuchar.engines.base import State
from cuchar.engines.host import HostLearner
from cuchar.engines.numpy_engine import sum_columns_by_id
from cuchar.parameters import initialise
from cuchar.philox import dropout_mask

PRODUCTS = ("logits", "inputs", "recurrent", "d logits", "d recurrent", "d inputs", "d weights")


class RoundingEngine:
    """`cuchar.engines.base.Engine`'s training half; [T, B, H] throughout.

    Args:
        dtype: the type of everything but the operands of products.
        scale: what gradients are multiplied by on their way back, and divided by at the end.
        plain: names of PRODUCTS whose operands are left as they are.
        followed: what another engine had for h [L, T + 1, B, H], das [L, T, B, 4H] and dlogits [N, V]. Products then
            take those, not their own, so that the two never round an operand to different sides of a tie.
    """

    def __init__(self, model, precision, dtype=np.float64, scale=1.0, plain=(), followed=None):
        self.model, self.precision, self.dtype, self.scale = model, precision, np.dtype(dtype), scale
        self.plain, self.followed = plain, followed

    def zero_state(self, batch):
        shape = (self.model.layers, batch, self.model.hidden)
        return State(np.zeros(shape, self.dtype), np.zeros(shape, self.dtype))

    def learner(self, config, training, windows):
        return HostLearner(self, config, training, windows)

    def operand(self, product, numbers):
        assert product in PRODUCTS
        return numbers if product in self.plain else rounded(numbers, self.precision).astype(self.dtype)

    def seen(self, name, own):
        """What products take for h, das or dlogits: another engine's where one is followed, or this one's own."""
        return own if self.followed is None else self.followed[name]

    def loss_and_gradients(self, parameters, example, gradients):
        inputs, targets, state, dropout = example.inputs, example.targets, example.state, example.dropout
        of, L, H = self.operand, self.model.layers, self.model.hidden
        (T, B), N = inputs.shape, inputs.size
        p = {name: values.astype(self.dtype) for name, values in parameters.items()}
        h, c = (np.empty((L, T + 1, B, H), self.dtype) for _ in range(2))
        h[:, 0], c[:, 0] = state.h, state.c
        seen_h = self.seen("h", h)
        gates, below = np.empty((L, T, 4, B, H), self.dtype), [None] * L
        masks = [1.0] * L if dropout is None else [
            dropout_mask((T, B, H), dropout.probability, dropout.seed, dropout.step, layer, np.float32) for layer in range(L)
        ]  # fmt: skip
        for layer in range(L):
            W, R = p[f"lstm.weight_ih_l{layer}"], of("recurrent", p[f"lstm.weight_hh_l{layer}"]).T
            if layer:
                below[layer] = (seen_h[layer - 1, 1:] * masks[layer - 1]).reshape(N, H)
                x = (of("inputs", below[layer]) @ of("inputs", W).T).reshape(T, B, 4 * H)
            else:
                x = W.T[inputs]
            for t in range(T):
                a = x[t] + of("recurrent", seen_h[layer, t]) @ R + p[f"lstm.bias_l{layer}"]
                i, f, g, o = a.reshape(B, 4, H).transpose(1, 0, 2)
                i, f, o = (np.tanh(s / 2) / 2 + self.dtype.type(0.5) for s in (i, f, o))
                gates[layer, t] = i, f, np.tanh(g), o
                c[layer, t + 1] = f * c[layer, t] + i * gates[layer, t, 2]
                h[layer, t + 1] = o * np.tanh(c[layer, t + 1])
        last = (seen_h[-1, 1:] * masks[-1]).reshape(N, H)
        logits = of("logits", last) @ of("logits", p["head.weight"]).T + p["head.bias"]
        logits -= logits.max(axis=1, keepdims=True)
        exps, place = np.exp(logits), (np.arange(N), targets.reshape(-1))
        total = exps.sum(axis=1)
        loss = float(np.mean(np.log(total) - logits[place], dtype=np.float64))
        dlogits = exps / (total[:, None] * self.dtype.type(N))
        dlogits[place] -= self.dtype.type(1 / N)
        dlogits *= self.dtype.type(self.scale)
        self.tape = {"h": h, "dlogits": dlogits, "das": np.empty((L, T, B, 4 * H), self.dtype)}

        dlogits, seen_das = self.seen("dlogits", dlogits), self.seen("das", self.tape["das"])
        gradients["head.bias"][...] = dlogits.sum(axis=0)
        gradients["head.weight"][...] = of("d weights", dlogits).T @ of("d weights", last)
        dh = (of("d logits", dlogits) @ of("d logits", p["head.weight"])).reshape(T, B, H)
        for layer in reversed(range(L)):
            da, R = self.tape["das"][layer], of("d recurrent", p[f"lstm.weight_hh_l{layer}"])
            dh = dh * masks[layer]
            dc, through = np.zeros((B, H), self.dtype), np.zeros((B, H), self.dtype)
            for t in reversed(range(T)):
                (i, f, g, o), tanh_c = gates[layer, t], np.tanh(c[layer, t + 1])
                dh_t = dh[t] + through
                dc = dc + dh_t * o * (1 - tanh_c**2)
                da[t] = np.concatenate(
                    [
                        dc * g * i * (1 - i),
                        dc * c[layer, t] * f * (1 - f),
                        dc * i * (1 - g**2),
                        dh_t * tanh_c * o * (1 - o),
                    ],
                    axis=1,
                )
                dc = dc * f
                through = of("d recurrent", seen_das[layer, t]) @ R
            rows, before = seen_das[layer].reshape(N, 4 * H), seen_h[layer, :-1].reshape(N, H)
            gradients[f"lstm.bias_l{layer}"][...] = rows.sum(axis=0)
            gradients[f"lstm.weight_hh_l{layer}"][...] = of("d weights", rows).T @ of("d weights", before)
            if layer:
                W = p[f"lstm.weight_ih_l{layer}"]
                gradients[f"lstm.weight_ih_l{layer}"][...] = of("d weights", rows).T @ of("d weights", below[layer])
                dh = (of("d inputs", rows) @ of("d inputs", W)).reshape(T, B, H)
            else:
                sum_columns_by_id(np.ascontiguousarray(rows.T), inputs, gradients["lstm.weight_ih_l0"])
        gradients.flat /= gradients.flat.dtype.type(self.scale)
        return loss, State(h[:, -1].copy(), c[:, -1].copy())


def train(engine, config, ids, steps, scaling=None, window=0, first=1):
    """Losses, norms, parameters and the loss scaling after `steps` steps of any engine, from seed 0 on."""
    parameters = initialise(engine.model, 0)
    adam = Adam(parameters.flat.size)
    adam.scaling = scaling or LossScaling()
    learner, _ = learner_of(engine, config, ids, parameters, adam)
    losses, norms = learner.train(window, first, [config.lr] * steps)
    learner.fetch()
    return losses, norms, parameters.flat, adam.scaling


def notebook_losses(text, precision, steps):
    """The losses of the notebook's model in its first `steps` steps on a text."""
    corpus, config = load_corpus([text]), TrainConfig()
    model = ModelConfig(len(corpus.vocabulary), config.hidden, config.layers)
    engine = RoundingEngine(model, precision, np.float32, LossScaling().scale if precision == "fp16" else 1.0)
    return train(engine, config, np.concatenate([corpus.ids] * 2), steps)[0]  # two epochs


if __name__ == "__main__":
    print(json.dumps(notebook_losses(sys.argv[1], sys.argv[2], int(sys.argv[3])).tolist()))
