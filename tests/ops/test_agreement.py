"""Every backend against the definition in float64, forward and in all three gradients."""

import os

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from ops_reference import Problem, assert_close, expected, gradients, make_problem, problems

from maftp.ops import ms_deform_attn, native
from maftp.ops.backends import PREFERENCE, VARIABLE, status

fixed_backend = [HealthCheck.function_scoped_fixture]
USUAL = {"batch": 2, "queries": 7, "heads": 2, "channels": 8, "points": 2}


@pytest.mark.usefixtures("torch_form")
@given(problem=problems())
@settings(deadline=None, max_examples=40, suppress_health_check=fixed_backend)
def test_torch_form(problem):
    assert_close(gradients(ms_deform_attn, problem), expected(problem), 1e-5)


@pytest.mark.slow
@pytest.mark.usefixtures("cpu_kernel")
@given(problem=problems(max_channels=80))
@settings(deadline=None, max_examples=150, suppress_health_check=fixed_backend)
def test_cpu_kernel(problem):
    assert_close(gradients(ms_deform_attn, problem), expected(problem), 1e-5)
    exact = problem.to(torch.float64)
    assert_close(gradients(ms_deform_attn, exact), expected(problem), 1e-12)


@pytest.mark.slow
@pytest.mark.usefixtures("cpu_kernel")
@pytest.mark.parametrize("channels", [8, 16, 32])  # those with code of their own
def test_cpu_kernel_with_usual_channels(channels):
    usual = USUAL | {"channels": channels, "shapes": [(3, 5), (6, 2)]}
    problem = make_problem(seed=channels, **usual)
    assert_close(gradients(ms_deform_attn, problem), expected(problem), 1e-5)


@pytest.mark.slow
@pytest.mark.usefixtures("cpu_kernel")
def test_cpu_kernel_gives_the_same_bits_with_any_number_of_threads():
    problem = make_problem(seed=0, **USUAL | {"queries": 500}, shapes=[(9, 12), (4, 6)])
    threads = torch.get_num_threads()
    results = []
    for count in (1, 3):
        torch.set_num_threads(count)
        results.append(gradients(ms_deform_attn, problem))
    torch.set_num_threads(threads)
    assert all(torch.equal(one, three) for one, three in zip(*results, strict=True))


@pytest.mark.parametrize("backend", ["torch", pytest.param("cpu", marks=pytest.mark.slow)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(backend, dtype, request):
    request.getfixturevalue({"torch": "torch_form", "cpu": "cpu_kernel"}[backend])
    problem = make_problem(seed=1, **USUAL, shapes=[(3, 5), (2, 2)])
    half = Problem(
        problem.value.to(dtype), problem.shapes, problem.locations, problem.weights,
        problem.grad.to(dtype),
    )  # fmt: skip
    found = gradients(ms_deform_attn, half)
    assert [part.dtype for part in found] == [dtype, dtype, torch.float32, torch.float32]
    # sums are float32: only the rounding of values that go in and out remains
    wanted = expected(half)
    tolerance = torch.finfo(dtype).eps
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=tolerance, atol=1e-5)


@pytest.mark.parametrize("backend", ["torch", pytest.param("cpu", marks=pytest.mark.slow)])
def test_views_that_are_not_contiguous(backend, request):
    request.getfixturevalue({"torch": "torch_form", "cpu": "cpu_kernel"}[backend])
    problem = make_problem(seed=2, **USUAL, shapes=[(3, 5), (2, 2)])

    def strided(tensor):
        order = list(range(tensor.dim()))[::-1]
        return tensor.permute(order).contiguous().permute(order)

    views = Problem(
        strided(problem.value), problem.shapes, *(strided(tensor) for tensor in problem.rest())
    )
    assert not views.value.is_contiguous()
    ours, theirs = gradients(ms_deform_attn, views), gradients(ms_deform_attn, problem)
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


@pytest.mark.slow
@pytest.mark.usefixtures("cpu_kernel")
def test_cpu_kernel_passes_on_what_is_no_number():
    problem = make_problem(seed=3, **USUAL, shapes=[(3, 5)])
    problem.locations[0, 0, 0, 0, 0, 0] = torch.nan
    problem.locations[0, 1, 0, 0, 0, 1] = 1e30
    output, _, by_location, _ = gradients(ms_deform_attn, problem)
    assert output[0, 0, : USUAL["channels"]].isnan().all()
    assert output[0, 1].isfinite().all() and by_location[0, 0, 0].isnan().any()


def gpu_backends():
    usable = [name for name in PREFERENCE["cuda"] if status()[name] is None]
    return usable if torch.cuda.is_available() else []


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("backend", PREFERENCE["cuda"])
def test_on_a_gpu(backend, monkeypatch):
    if backend not in gpu_backends():
        pytest.skip(f"{backend}: {status()[backend]}")
    monkeypatch.setenv(VARIABLE, backend)
    for seed, channels in enumerate((32, 8, 4, 3, 33)):
        if backend == "deformops" and channels % 8:
            continue
        usual = USUAL | {"channels": channels, "points": 4, "queries": 100}
        problem = make_problem(seed=seed, **usual, shapes=[(7, 9), (3, 5)])
        on_gpu = Problem(
            problem.value.cuda(), problem.shapes, *(tensor.cuda() for tensor in problem.rest())
        )
        found = tuple(part.cpu() for part in gradients(ms_deform_attn, on_gpu))
        assert_close(found, expected(problem), 1e-5)


def test_library_belongs_to_one_version_of_pytorch_and_sources():
    path = native.library_path("cpu")
    assert torch.__version__.split("+")[0] in path.parent.name
    assert os.environ.get(native.CACHE_VARIABLE, "") in str(path)
