"""Make .venv when it is missing or when the pins changed; otherwise do nothing.

Run by the Makefile with Python 3.11 to 3.13; uses the standard library only. `--can-use` does
nothing but say by the exit code whether this interpreter will do. `--torch cpu` takes PyTorch's
build without CUDA, 4 GB less, from PyTorch's own index, and stays in force until `--torch cuda`.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
import venv
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENVS = ROOT / "envs"
VENV = ROOT / ".venv"
STAMP = VENV / ".pins"
BOOTSTRAP = ENVS / "bootstrap.txt"
PINS = (ENVS / "requirements.txt", ENVS / "requirements-dev.txt")
BUILT = (ENVS / "detectron2" / "repack.py", ENVS / "detectron2" / "pyproject.toml")
EDITABLE = (ROOT, ROOT / "workflow" / "plugins")
PYTHONS = ((3, 11), (3, 12), (3, 13))
GIGABYTES_NEEDED = {"cuda": 9, "cpu": 5}
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
OF_CUDA = re.compile(r"(torch|torchvision|triton|deformops|(nvidia|cuda)-[\w-]+)==")


def main() -> None:
    """Install the pinned environment unless it is there already."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--can-use", action="store_true")
    parser.add_argument("--torch", choices=GIGABYTES_NEEDED)
    options = parser.parse_args()
    reason = why_not(sys.version_info[:3])
    if options.can_use:
        sys.exit(reason)
    if reason and not VENV.exists():
        sys.exit(reason)
    before = STAMP.read_text() if STAMP.is_file() else ""
    build = options.torch or ("cpu" if before.endswith(" cpu") else "cuda")
    files = (BOOTSTRAP, *PINS, *BUILT, *(p / "pyproject.toml" for p in EDITABLE), Path(__file__))
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    stamp = f"{digest} {build}"
    if stamp == before:
        return
    needed = GIGABYTES_NEEDED[build]
    free = shutil.disk_usage(ROOT).free / 1e9
    if not VENV.exists() and free < needed:
        sys.exit(f"{ROOT} has {free:.1f} GB free; the environment needs {needed} GB.")
    version = ".".join(map(str, sys.version_info[:2]))
    say(f"Setting up .venv with Python {version}: {needed - 2} GB, a minute to ten by the network")
    install(CPU_INDEX if build == "cpu" else None)
    STAMP.write_text(stamp)


def why_not(version: tuple[int, int, int]) -> str | None:
    """Return why an interpreter cannot make the environment, or None when it can."""
    advice = "name another with `make PYTHON=/path/to/python3.12`."
    if version[:2] not in PYTHONS:
        found = ".".join(map(str, version))
        return f"Python 3.11, 3.12 or 3.13 is needed, this is {found}; {advice}"
    if find_spec("ensurepip") is None:
        return f"{sys.executable} has no ensurepip (python3-venv on Debian); {advice}"
    return None


def install(cpu_index: str | None) -> None:
    """Fill .venv with exactly the pinned packages, Detectron2 and this project.

    Args:
        cpu_index: where PyTorch without CUDA comes from; None takes the pinned one.
    """
    STAMP.unlink(missing_ok=True)
    python = VENV / "bin" / "python"
    if not python.exists():
        venv.create(VENV, with_pip=True, clear=True)
    pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    say("1 of 4: pip and uv")
    run([*pip, "--require-hashes", "-r", str(BOOTSTRAP)])
    # uv shows what it downloads, how much of it is there and how large it is
    quiet = [] if sys.stderr.isatty() else ["--quiet"]
    uv = [str(VENV / "bin" / "uv"), "pip"]
    target = [*quiet, "--python", str(python)]
    # Without bytecode, and where PYTHONDONTWRITEBYTECODE keeps it from being written, every process
    # would compile the 3000 modules it imports, which takes longer than most commands.
    sync = [*uv, "sync", *target, "--compile-bytecode", "--require-hashes"]
    say("2 of 4: the pinned packages")
    pins = [BOOTSTRAP, *PINS]
    if cpu_index is None:
        run([*sync, *map(str, pins)])
    else:
        texts = [file.read_text() for file in pins]
        with tempfile.TemporaryDirectory() as folder:
            rest = Path(folder) / "requirements.txt"
            rest.write_text("".join(map(without_cuda, texts)))
            run([*sync, str(rest)])
        run([*uv, "install", *target, *cpu_builds("".join(texts), cpu_index)])
    say("3 of 4: Detectron2")
    run([*pip, "--no-deps", "--no-build-isolation", str(ENVS / "detectron2")])
    say("4 of 4: this project")
    for project in EDITABLE:
        run([*pip, "--no-deps", "--no-build-isolation", "--editable", str(project)])


def without_cuda(pins: str) -> str:
    """Return pinned requirements but for PyTorch and what its CUDA build brings."""
    blocks = re.split(r"^(?=[^\s#])", pins, flags=re.MULTILINE)
    return "".join(block for block in blocks if not OF_CUDA.match(block))


def cpu_builds(pins: str, index: str) -> list[str]:
    """Return uv's arguments for the CPU builds of the pinned versions of PyTorch and torchvision.

    Their digests are not those of the pinned builds, so here the index vouches for them.
    """
    found = dict(re.findall(r"^(torch|torchvision)==([\w.]+)", pins, flags=re.MULTILINE))
    builds = [f"{name}=={version}+cpu" for name, version in found.items()]
    return ["--no-deps", "--index-url", index, *builds]


def say(text: str) -> None:
    """Name the step that begins."""
    print(text, flush=True)


def run(command: list[str]) -> None:
    """Run one step; a failure ends the set-up with the step's own message above ours."""
    if subprocess.run(command, check=False).returncode:
        sys.exit(f"Set-up failed at: {' '.join(command)}\nMend what it says and run make again.")


if __name__ == "__main__":
    main()
