"""The set-up takes the interpreters that the pins are made for, and names what another lacks."""

from __future__ import annotations

import functools
import http.server
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import threading
import venv
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SPEC = importlib.util.spec_from_file_location("install", ROOT / "envs/install.py")
install = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(install)


@pytest.mark.parametrize("version", [(3, 11, 0), (3, 12, 1), (3, 13, 9)])
def test_pinned_interpreters_are_taken(version):
    assert install.why_not(version) is None


@pytest.mark.parametrize("version", [(2, 7, 18), (3, 10, 13), (3, 14, 0), (4, 11, 0)])
def test_others_are_named(version):
    reason = install.why_not(version)
    assert ".".join(map(str, version)) in reason and "make PYTHON=" in reason


def test_an_interpreter_without_pip_is_named(monkeypatch):
    monkeypatch.setattr(install, "find_spec", lambda name: None)
    assert f"{sys.executable} has no ensurepip" in install.why_not((3, 12, 0))


def test_pins_hold_for_every_interpreter():
    pins = (ROOT / "envs/requirements.txt").read_text()
    assert re.search(r"^deformops==\S+ ; python_full_version >= '3.12'", pins, flags=re.MULTILINE)
    assert re.search(r"^torch==2[.0-9]+ ", pins, flags=re.MULTILINE)


@pytest.mark.parametrize(
    ("name", "taken"),
    [("python3.11", True), ("python3.12", True), ("python3", True), ("python2", False)],
)
def test_make_takes_what_it_finds(tmp_path, name, taken):
    (tmp_path / name).symlink_to(sys.executable)
    done = _make(tmp_path)
    if taken:
        assert done.stdout.splitlines()[-1] == f"{name} envs/install.py"
    else:
        assert "PYTHON=/path/to/python3.12" in done.stdout and '[ -n "" ]' in done.stdout


def test_make_prefers_one_that_works(tmp_path):
    broken = tmp_path / "python3.12"  # such as a shim of a version that is not installed
    broken.write_text("#!/bin/sh\nexit 127\n")
    broken.chmod(0o755)
    (tmp_path / "python3.11").symlink_to(sys.executable)
    assert _make(tmp_path).stdout.splitlines()[-1] == "python3.11 envs/install.py"


PINS = "".join((ROOT / f"envs/{name}.txt").read_text() for name in ("bootstrap", "requirements"))
NAME = re.compile(r"^([\w.-]+)==", flags=re.MULTILINE)


def test_the_cpu_build_does_without_cuda_alone():
    kept = install.without_cuda(PINS)
    left_out = set(NAME.findall(PINS)) - set(NAME.findall(kept))
    assert {"torch", "torchvision", "triton", "deformops", "nvidia-cudnn-cu13"} <= left_out
    assert all(re.match("torch|triton|deformops|nvidia|cuda", name) for name in left_out)
    assert not re.search("nvidia-|triton==", kept)
    assert PINS.count("--hash") - kept.count("--hash") == sum(
        block.count("--hash") for block in re.split(r"^(?=\S)", PINS, flags=re.M)
        if NAME.match(block) and NAME.match(block)[1] in left_out
    )  # fmt: skip


def test_the_cpu_build_comes_from_its_own_index(tmp_path):
    """uv takes the builds from an index as PyTorch's is, here one on loopback."""
    versions = dict(re.findall(r"^(torch|torchvision)==([\w.]+)", PINS, flags=re.M))
    for name, version in versions.items():
        (tmp_path / "whl" / name).mkdir(parents=True)
        about = f"{name}-{version}+cpu.dist-info"
        file = tmp_path / "whl" / name / f"{name}-{version}+cpu-py3-none-any.whl"
        with zipfile.ZipFile(file, "w") as wheel:
            wheel.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\n"
                                                f"Version: {version}+cpu\n")  # fmt: skip
            wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
            wheel.writestr(f"{about}/RECORD", "")
    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv" / "bin" / "python"
    serve = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), serve) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        index = f"http://127.0.0.1:{server.server_port}/whl"
        uv = [Path(sys.executable).with_name("uv"), "pip", "install", "--no-config", "--no-cache"]
        command = [*uv, "--python", python, *install.cpu_builds(PINS, index)]
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("UV_", "PIP_"))}
        subprocess.run(command, env=environment, check=True)
        server.shutdown()
    site = sysconfig.get_path("purelib", vars={"base": str(tmp_path / "venv")})
    found = metadata.distributions(path=[site])
    assert {d.name: d.version for d in found} == {n: f"{v}+cpu" for n, v in versions.items()}


def test_make_passes_the_build_on(tmp_path):
    (tmp_path / "python3.12").symlink_to(sys.executable)
    done = _make(tmp_path, "TORCH=cpu")
    assert done.stdout.splitlines()[-1] == "python3.12 envs/install.py --torch cpu"


def _make(folder: Path, *variables: str) -> subprocess.CompletedProcess[str]:
    """Say what `make env` would do with no program but make's own and those in a folder."""
    for tool in ("sh", "make"):
        (folder / tool).symlink_to(shutil.which(tool))
    return subprocess.run(
        ["make", "--dry-run", "--no-print-directory", "env", *variables],
        cwd=ROOT,
        env={"PATH": str(folder)},  # a make around the tests hands its own variables on
        capture_output=True,
        text=True,
        check=True,
    )
