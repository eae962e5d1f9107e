"""Two training steps, one evaluation and a few draws of a small model in each regime, for compute-sanitizer to watch.

Products on tensor cores are done by our own kernel. compute-sanitizer 2025.3 does not see what a library's kernels
write on Hopper by bulk copies, and under racecheck they end in an error. round.cu, which the library's products need,
is run by itself.
"""

import numpy as np

from cuchar.adam import Adam
from cuchar.batches import Windows
from cuchar.config import ModelConfig, TrainConfig
from cuchar.engines.base import Streams, TrainingState
from cuchar.engines.cuda import learner as cuda_learner
from cuchar.engines.cuda.engine import CudaEngine
from cuchar.engines.cuda.gemm import LibraryGemm
from cuchar.engines.cuda.regimes import LEAST_CAPABILITY, plan_sampling, plan_window
from cuchar.engines.cuda.target import Target, Window
from cuchar.parameters import initialise
from cuchar.sampling import SampleConfig
from tools.gpu_stages.device import device_under_test

REGIMES = [  # V, H, L, B, T, precision
    (84, 64, 2, 4, 6, "fp32"), (84, 64, 1, 4, 6, "fp32"), (84, 81, 2, 7, 4, "fp32"), (600, 24, 2, 3, 4, "fp32"),
    (84, 720, 2, 3, 4, "fp32"), (84, 81, 2, 3, 4, "tf32"), (84, 64, 2, 3, 4, "bf16"), (84, 33, 2, 3, 4, "fp16"),
]  # fmt: skip
# A chunk has no more windows than there are steps here. Otherwise results that no step has written would be read, and
# initcheck would report that.
cuda_learner.MOST_WINDOWS = 2

if __name__ == "__main__":
    device = device_under_test()
    device.has_tensor_library = False
    for V, H, L, B, T, precision in REGIMES:
        if device.limits.capability < LEAST_CAPABILITY[precision]:
            continue
        model = ModelConfig(V, H, L)
        config = TrainConfig(hidden=H, layers=L, window=T, batch=B, dropout=0.3, weight_dropout=0.1, clip=0.5)
        engine, parameters = CudaEngine(model, device, precision=precision), initialise(model, 0)
        target = Target(device, model, engine.dtype, precision)
        ids = np.random.default_rng(0).integers(V, size=B * (3 * T + 1), dtype=np.uint16)
        windows, state = Windows(ids, B, T, T), engine.zero_state(B)
        learner = engine.learner(config, TrainingState(parameters, Adam(parameters.flat.size), state), windows)
        losses, norms = learner.train(0, 1, [1e-3, 1e-3])
        learner.fetch()
        if precision in ("bf16", "fp16"):
            halves = LibraryGemm(target).prepared("a", engine.fold(parameters)["head.weight"])
            print(device.read(halves).size, flush=True)
        scores, _ = engine.losses(engine.fold(parameters), *windows[2], state)
        for law in (SampleConfig(law="exp"), SampleConfig(top_k=9, top_p=0.9)):
            sampler = engine.sampler(engine.fold(parameters), law, Streams(1, range(B), windows[2][0][-1], state, 0))
            print(plan_sampling(Target(device, model, engine.dtype)), sampler.make(3)[-1], flush=True)
        print(plan_window(target, Window(T, B)), precision, losses, norms, scores.mean(), flush=True)
        if not np.isfinite([*losses, *norms, scores.mean()]).all():
            raise SystemExit("expected finite losses and norms")
