"""Build backend: Detectron2's Python code as a wheel without compiled parts.

Detectron2 has no release of its own on the package index. `sal-detectron2` 0.7.2 packs upstream's
Python code together with a binary for one Python and one CUDA version. Nothing here needs that
binary, so this backend fetches the wheel at a pinned digest, leaves the binary out and repacks
the rest as `detectron2-0.7.2-py3-none-any.whl`. Nothing is compiled.
"""

from __future__ import annotations

import base64
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

VERSION = "0.7.2"
SOURCE = f"sal-detectron2=={VERSION}"
SOURCE_SHA256 = "491af0c7f79bdb2d178e46f6cb16a97c4ac968d45c41ea3f6b6435d59bbee561"
REQUIREMENTS = (
    "cloudpickle",
    "fvcore",
    "hydra-core",
    "iopath",
    "matplotlib",
    "numpy",
    "omegaconf",
    "packaging",
    "pillow",
    "pycocotools",
    "tabulate",
    "termcolor",
    "torch",
    "tqdm",
    "yacs",
)
INFO = f"detectron2-{VERSION}.dist-info"
WHEEL = "Wheel-Version: 1.0\nGenerator: repack\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def build_wheel(
    wheel_directory: str, config_settings: object = None, metadata_directory: str | None = None
) -> str:
    """Write the wheel into `wheel_directory` and return its file name (PEP 517)."""
    name = f"detectron2-{VERSION}-py3-none-any.whl"
    with tempfile.TemporaryDirectory() as folder:
        source = zipfile.ZipFile(_fetch(Path(folder)))
        with zipfile.ZipFile(Path(wheel_directory) / name, "w", zipfile.ZIP_DEFLATED) as target:
            records = [_add(target, path, source.read(path)) for path in _python_files(source)]
            licence = source.read(f"sal_detectron2-{VERSION}.dist-info/LICENSE")
            records.append(_add(target, f"{INFO}/licenses/LICENSE", licence))
            records.append(_add(target, f"{INFO}/METADATA", _metadata().encode()))
            records.append(_add(target, f"{INFO}/WHEEL", WHEEL.encode()))
            target.writestr(f"{INFO}/RECORD", "".join(records) + f"{INFO}/RECORD,,\n")
    return name


def _fetch(folder: Path) -> Path:
    """Download the source wheel with pip, whose configuration knows the index to use."""
    requirement = folder / "source.txt"
    requirement.write_text(f"{SOURCE} --hash=sha256:{SOURCE_SHA256}\n")
    command = [_python_with_pip(), "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--only-binary=:all:", "--python-version", "3.10", "--require-hashes"]
    subprocess.run([*command, "-d", str(folder), "-r", str(requirement)], check=True)
    return next(folder.glob("*.whl"))


def _python_with_pip() -> str:
    """Return an interpreter that has pip: this one, or the one its environment was made from."""
    for python in (sys.executable, getattr(sys, "_base_executable", sys.executable)):
        if not subprocess.run([python, "-c", "import pip"], stderr=subprocess.DEVNULL).returncode:
            return python
    raise RuntimeError("building detectron2 needs pip; install it with `python -m ensurepip`")


def _python_files(source: zipfile.ZipFile) -> list[str]:
    return [
        path
        for path in source.namelist()
        if path.startswith("detectron2/") and not path.endswith((".so", "/"))
    ]


def _metadata() -> str:
    lines = ["Metadata-Version: 2.1", "Name: detectron2", f"Version: {VERSION}"]
    lines += ["License: Apache-2.0", "Requires-Python: >=3.8"]
    return "\n".join([*lines, *(f"Requires-Dist: {name}" for name in REQUIREMENTS)]) + "\n"


def _add(target: zipfile.ZipFile, path: str, content: bytes) -> str:
    """Write one file and return its line of RECORD."""
    target.writestr(zipfile.ZipInfo(path, date_time=(2024, 4, 1, 0, 0, 0)), content)
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    return f"{path},sha256={digest},{len(content)}\n"
