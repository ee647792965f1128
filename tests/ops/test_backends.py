"""The choice of a backend, and what `maftp ops` says and does."""

import shutil
import sys
import sysconfig

import pytest
import torch
from ops_reference import run_maftp

from maftp.errors import OperatorError
from maftp.ops import backends, build, deformops_backend, native


@pytest.fixture
def nothing_built(tmp_path, monkeypatch):
    monkeypatch.setenv(native.CACHE_VARIABLE, str(tmp_path))
    monkeypatch.delenv(backends.VARIABLE, raising=False)


@pytest.mark.usefixtures("nothing_built")
def test_without_a_built_kernel_pytorch_computes():
    assert backends.choose("cpu", torch.float32) == "torch"
    assert backends.status()["torch"] is None
    assert backends.status()["cpu"] == "it is not built; run `maftp ops build`"
    assert backends.choose("meta", torch.float32) == "torch"


@pytest.mark.usefixtures("nothing_built")
@pytest.mark.parametrize(
    ("name", "device", "sentence"),
    [
        ("cpu", "cpu", "it is not built; run `maftp ops build`"),
        ("cuda", "cpu", "it computes on cuda only, not on cpu; unset the variable"),
        ("triton", "cpu", "no such backend; choose one of torch, cpu, cuda, deformops"),
    ],
)
def test_a_named_backend_is_used_or_refused(monkeypatch, name, device, sentence):
    monkeypatch.setenv(backends.VARIABLE, name)
    with pytest.raises(OperatorError, match=sentence) as error:
        backends.choose(device, torch.float32)
    assert str(error.value).startswith(f"MAFTP_OPS_BACKEND={name}: ")


@pytest.mark.usefixtures("nothing_built")
def test_a_damaged_library_is_named(tmp_path, monkeypatch):
    native._load.cache_clear()
    path = native.library_path("cuda")
    path.parent.mkdir(parents=True)
    path.write_text("no library")
    reason = native.why_not("cuda")
    assert str(path) in reason and reason.endswith("run `maftp ops build --again`")
    native._load.cache_clear()


def test_deformops_says_what_it_compiles_with(tmp_path, monkeypatch):
    monkeypatch.setattr(deformops_backend, "find_spec", lambda name: name)
    monkeypatch.setenv("CC", "no-such-compiler")
    assert "no C compiler (no-such-compiler)" in deformops_backend.why_not(torch.float32)
    monkeypatch.setenv("CC", sys.executable)
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    assert f"headers are not in {tmp_path}" in deformops_backend.why_not(torch.float32)
    (tmp_path / "Python.h").touch()
    assert deformops_backend.why_not(torch.float32) is None
    assert "no kernels for torch.float64" in deformops_backend.why_not(torch.float64)


@pytest.mark.slow
def test_built_kernel_is_used(built_cache):
    done = run_maftp("ops", "status", cache=built_cache)
    assert "cpu        can be used" in done.stdout
    assert "on cpu: cpu" in done.stdout
    again = run_maftp("ops", "build", "cpu", cache=built_cache)
    assert "already built" in again.stderr


@pytest.mark.slow  # a process of its own
def test_no_compiler_is_one_sentence(tmp_path):
    done = run_maftp("ops", "build", "cpu", cache=tmp_path, CXX="no-such-compiler")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "maftp ops: there is no C++ compiler (no-such-compiler); install one such as g++, or go on "
        "without: PyTorch's own operations are used instead"
    )


def test_no_nvcc_is_one_sentence(monkeypatch):
    monkeypatch.setattr(build, "cuda_home", lambda: None)
    monkeypatch.setattr(build, "_check_compiler", lambda: None)
    assert build.buildable() == ["cpu"]
    with pytest.raises(OperatorError, match="there is no nvcc with its headers and libraries"):
        build._cuda_options(["90"])


@pytest.mark.skipif(build.cuda_home() is None, reason="needs nvcc")
def test_toolkit_is_found_behind_a_script(monkeypatch):
    # The program on the path may start the real one from another folder: nvcc is asked.
    monkeypatch.delenv("CUDA_HOME", raising=False)
    monkeypatch.delenv("CUDA_PATH", raising=False)
    home = build.cuda_home()
    assert (home / "bin" / "nvcc").is_file() and (home / "include" / "cuda_runtime.h").is_file()


@pytest.mark.slow
@pytest.mark.skipif(build.cuda_home() is None, reason="needs nvcc")
@pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler")
@pytest.mark.skipif(torch.version.cuda is None, reason="needs a PyTorch with CUDA")
def test_cuda_kernels_compile_link_and_load(tmp_path):
    done = run_maftp("ops", "build", "cuda", "--arch", "90", cache=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "cuda: built and loaded" in done.stderr
    status = run_maftp("ops", "status", cache=tmp_path).stdout
    cuda = next(line for line in status.splitlines() if line.startswith("cuda"))
    wanted = "can be used" if torch.cuda.is_available() else "it is in place, but there is no GPU"
    assert wanted in cuda
