"""The CUDA kernels' code, compiled for the host and run thread by thread, against float64."""

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from ops_reference import Problem, assert_close, expected, make_problem

from maftp.ops.native import SOURCES

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++"),
]
HERE = Path(__file__).resolve().parent


@pytest.fixture(scope="module")
def kernels(tmp_path_factory):
    library = tmp_path_factory.mktemp("kernels") / "cuda_on_host.so"
    flags = ["-std=c++20", "-O1", "-shared", "-fPIC", "-pthread", f"-I{SOURCES}"]
    subprocess.run(["g++", *flags, str(HERE / "cuda_on_host.cpp"), "-o", str(library)], check=True)
    return ctypes.CDLL(str(library))


def pointer(tensor):
    return ctypes.c_void_p(tensor.data_ptr())


def run(kernels, problem: Problem, dtype):
    value, grad = problem.value.to(dtype), problem.grad.to(dtype)
    batch, tokens, heads, channels = value.shape
    queries, _, levels, points = problem.weights.shape[1:]
    n = (ctypes.c_int64 * 7)(batch, tokens, queries, heads, channels, levels, points)
    flat = [side for shape in problem.shapes for side in shape]
    shapes = (ctypes.c_int * len(flat))(*flat)
    name = {torch.float32: "float", torch.float16: "half"}[dtype]
    output = torch.empty(batch, queries, heads * channels, dtype=dtype)
    inputs = [problem.locations, problem.weights]
    kernels[f"forward_{name}"](n, shapes, pointer(value), *map(pointer, inputs), pointer(output))
    grads = [torch.zeros(value.shape), *(torch.zeros_like(tensor) for tensor in inputs)]
    kernels[f"backward_{name}"](
        n, shapes, pointer(grad), pointer(value), *map(pointer, inputs), *map(pointer, grads)
    )
    return output, *grads


# channels: packs of 4 (8 of half) in groups of 8, 2, 1 lanes; single channels in groups of 4 and
# 32; more than a group takes at once. 40 queries fill a block of 32 and begin another.
@pytest.mark.parametrize("channels", [32, 8, 4, 3, 33, 160])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_equals_float64(kernels, channels, dtype):
    problem = make_problem(
        seed=channels, batch=2, queries=40, heads=2, channels=channels, points=2,
        shapes=[(3, 5), (0, 4), (1, 1)],
    )  # fmt: skip
    rounded = Problem(
        problem.value.to(dtype).float(), problem.shapes, problem.locations, problem.weights,
        problem.grad.to(dtype).float(),
    )  # fmt: skip
    found = run(kernels, problem, dtype)
    assert_close(found, expected(rounded), 1e-5 if dtype == torch.float32 else 1e-3)


def test_location_that_is_no_number_is_seen(kernels):
    problem = make_problem(
        seed=0, batch=1, queries=2, heads=1, channels=4, points=1, shapes=[(3, 3)]
    )
    problem.locations[0, 0, 0, 0, 0, 0] = torch.nan
    problem.locations[0, 1, 0, 0, 0, 1] = 1e30  # far away, but a number
    output, _, by_location, _ = run(kernels, problem, torch.float32)
    assert output[0, 0].isnan().all() and not output[0, 1].any()
    assert by_location[0, 0].isnan().any() and not by_location[0, 1].any()
