"""Tensor cores: products and gradients against float64 on rounded operands, the same bytes twice, fp16's scaling.

A GPU's mma rounds or truncates each product and the sum to the last place of the largest of them, which costs up to an
ulp where the emulator's costs half of one. It does so once for 8 products or more.
"""

import numpy as np
import pytest
from support.products import OPERATIONS, product
from support.rounding import PRECISIONS
from support.rounding_engine import train
from support.rounding_errors import ratios

from cuchar.adam import LossScaling
from cuchar.config import ModelConfig, TrainConfig
from cuchar.engines.cuda.engine import CudaEngine
from cuchar.engines.cuda.gemm import LibraryGemm, TensorGemm
from cuchar.engines.cuda.regimes import LEAST_CAPABILITY
from cuchar.errors import DeviceError
from tools.gpu_stages.device import dry_run
from tools.gpu_stages.shapes import ROUNDED, SCALED_HIDDEN, TRAINED_V

SIZES = [(7, 33, 16), (50, 72, 97)] if dry_run() else [(7, 33, 16), (50, 2048, 512), (2048, 512, 2500), (131, 257, 97)]


def is_refused(precision, device) -> bool:
    """Whether the GPU has no such precision, and the engine says so."""
    if device.limits.capability >= LEAST_CAPABILITY[precision]:
        return False
    with pytest.raises(DeviceError, match="expected compute capability"):
        CudaEngine(ModelConfig(5, 3, 1), device, precision=precision)
    return True


@pytest.mark.parametrize("ta,tb", OPERATIONS)
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("gemm", [TensorGemm, LibraryGemm])
def test_products_of_rounded_numbers(gemm, precision, size, ta, tb, device):
    if gemm is LibraryGemm and not device.has_tensor_library:
        assert dry_run()
        return
    for accumulate in (False, True):
        if not is_refused(precision, device):
            found, exact, bound = product(device, precision, *size, ta, tb, accumulate, gemm=gemm)
            assert (np.abs(found - exact) <= 2 * bound).all()


@pytest.mark.parametrize("shape", ROUNDED, ids=str)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_losses_and_gradients_are_those_of_rounded_operands(precision, shape, device):
    V, H, _, B, T = shape
    if not is_refused(precision, device):
        for name, ratio in ratios(precision, shape, [device, device], ulps=4 + max(V, H, B * T) / 8):
            assert ratio <= 1, name


def test_scales_that_overflow_are_halved(device):
    if is_refused("fp16", device):
        return
    config = TrainConfig(hidden=SCALED_HIDDEN, window=4, batch=3, precision="fp16")
    ids = np.random.default_rng(0).integers(TRAINED_V, size=2000, dtype=np.uint8)
    engine = CudaEngine(ModelConfig(TRAINED_V, SCALED_HIDDEN, 2), device, precision="fp16")
    losses, norms, parameters, scaling = train(engine, config, ids, 40, LossScaling(2.0**30, 7))
    skipped = int(np.argmax(norms > 0))
    assert 3 < skipped < 20 and np.isfinite(losses).all() and np.isfinite(parameters).all()
    assert scaling == LossScaling(2.0 ** (30 - skipped), 40 - skipped)
