"""Make .venv when it is missing or when the pins changed; otherwise do nothing.

Run by the Makefile with Python 3.11; uses the standard library only.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENVS = ROOT / "envs"
VENV = ROOT / ".venv"
STAMP = VENV / ".pins"
BOOTSTRAP = ENVS / "bootstrap.txt"
PINS = (ENVS / "requirements.txt", ENVS / "requirements-dev.txt")
BUILT = (ENVS / "detectron2" / "repack.py", ENVS / "detectron2" / "pyproject.toml")
GIGABYTES_NEEDED = 9


def main() -> None:
    """Install the pinned environment unless it is there already."""
    if sys.version_info[:2] != (3, 11):
        found = ".".join(map(str, sys.version_info[:3]))
        sys.exit(f"Python 3.11 is needed, this is {found}; run `make PYTHON=/path/to/python3.11`.")
    files = (BOOTSTRAP, *PINS, *BUILT, ROOT / "pyproject.toml", Path(__file__))
    pins = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    if STAMP.is_file() and STAMP.read_text() == pins:
        return
    free = shutil.disk_usage(ROOT).free / 1e9
    if not VENV.exists() and free < GIGABYTES_NEEDED:
        sys.exit(f"{ROOT} has {free:.1f} GB free; the environment needs {GIGABYTES_NEEDED} GB.")
    print("Setting up .venv: about 7 GB, a minute to ten depending on the network.", flush=True)
    install()
    STAMP.write_text(pins)


def install() -> None:
    """Fill .venv with exactly the pinned packages, Detectron2 and this project."""
    STAMP.unlink(missing_ok=True)
    python = VENV / "bin" / "python"
    if not python.exists():
        venv.create(VENV, with_pip=True, clear=True)
    pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    run([*pip, "--require-hashes", "-r", str(BOOTSTRAP)])
    uv = [str(VENV / "bin" / "uv"), "pip", "sync", "--quiet", "--python", str(python)]
    # Without bytecode, and where PYTHONDONTWRITEBYTECODE keeps it from being written, every process
    # would compile the 3000 modules it imports, which takes longer than most commands.
    run([*uv, "--compile-bytecode", "--require-hashes", *map(str, (BOOTSTRAP, *PINS))])
    run([*pip, "--no-deps", "--no-build-isolation", str(ENVS / "detectron2")])
    run([*pip, "--no-deps", "--no-build-isolation", "--editable", str(ROOT)])


def run(command: list[str]) -> None:
    """Run one step; a failure ends the set-up with the step's own message above ours."""
    if subprocess.run(command, check=False).returncode:
        sys.exit(f"Set-up failed at: {' '.join(command)}\nMend what it says and run make again.")


if __name__ == "__main__":
    main()
