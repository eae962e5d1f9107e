"""cuchar.bench.worker with times that are known: cuchar's step takes 2 ms, a peer's 3. Only four steps a call are done.

In place of PyTorch a peer is cuchar too, so that its losses are right. CUCHAR_FAKE_PEER may say what is wrong with it:
"absent", "breaks" at its first step, "dies", or does "other work" or finds "other scores".
"""

import os
from dataclasses import replace

from cuchar.bench import ceilings, worker
from cuchar.bench.cuchar_contender import CucharContender
from cuchar.engines.numpy_engine import NumpyEngine
from cuchar.errors import DeviceError

WRONG = os.environ.get("CUCHAR_FAKE_PEER")
OURS_S, PEER_S = 0.002, 0.003
ceilings.HOST_SIZE, ceilings.HOST_BYTES, ceilings.TRIPS = 64, 1 << 16, 1 << 10
true_train, true_draw, true_score = CucharContender.train, CucharContender.draw, CucharContender.score


def ours_train(self, steps):
    """A step takes 2 ms; above 64 hidden units it grows with their third power, which is faster than the arithmetic."""
    slow = max(1.0, (self.sizes.H / 64) ** 3)
    return replace(true_train(self, min(steps, 4)), seconds=steps * OURS_S * slow)


def draw(self, streams, characters):
    return replace(true_draw(self, streams, 1), seconds=characters * streams * 1e-3)


def ours_score(self, windows):
    return replace(true_score(self, 1), seconds=windows * OURS_S)


class Peer(CucharContender):
    def train(self, steps):
        if WRONG == "breaks":
            raise RuntimeError("no kernel image\nfor this GPU")
        if WRONG == "dies":
            os._exit(3)
        burst = true_train(self, min(steps, 4))
        return replace(burst, seconds=steps * PEER_S, loss=burst.loss * (1.001 if WRONG == "other work" else 1))

    def score(self, windows):
        burst = true_score(self, 1)
        return replace(burst, seconds=windows * PEER_S, loss=burst.loss * (1.001 if WRONG == "other scores" else 1))

    def notes(self):
        return "a fake"


def peer_maker(contender, device, threads):
    if WRONG == "absent":
        raise DeviceError("not installed; pip install torch")
    return {"torch": "fake"}, lambda sizes: Peer(NumpyEngine(sizes.model), sizes)


CucharContender.train, CucharContender.draw, CucharContender.score = ours_train, draw, ours_score
worker.peer_maker = peer_maker

if __name__ == "__main__":
    worker.main()
