"""Make .venv when it is missing or when the pins changed; otherwise do nothing.

Run by the Makefile with Python 3.11 to 3.13; uses the standard library only. `--can-use` does
nothing but say by the exit code whether this interpreter will do.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
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
PYTHONS = ((3, 11), (3, 12), (3, 13))
GIGABYTES_NEEDED = 9


def main() -> None:
    """Install the pinned environment unless it is there already."""
    reason = why_not(sys.version_info[:3])
    if "--can-use" in sys.argv:
        sys.exit(reason)
    if reason and not VENV.exists():
        sys.exit(reason)
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


def why_not(version: tuple[int, int, int]) -> str | None:
    """Return why an interpreter cannot make the environment, or None when it can."""
    advice = "name another with `make PYTHON=/path/to/python3.12`."
    if version[:2] not in PYTHONS:
        found = ".".join(map(str, version))
        return f"Python 3.11, 3.12 or 3.13 is needed, this is {found}; {advice}"
    if find_spec("ensurepip") is None:
        return f"{sys.executable} has no ensurepip (python3-venv on Debian); {advice}"
    return None


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
