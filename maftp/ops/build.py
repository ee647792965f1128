"""Compile the operators' own kernels: for the CPU, and for NVIDIA GPUs where there is an nvcc."""

from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from maftp.errors import OperatorError
from maftp.ops.native import KINDS, SOURCES, library_path

logger = logging.getLogger(__name__)

ARCHITECTURES = ("80", "90", "100", "120")
"""GPU generations with code of their own; the last one's portable code serves newer ones."""
_HOST_FLAGS = ("-O3", "-ffp-contract=off", "-fopenmp")
"""No fused multiply-add: every x86 machine gets the same bits."""


def build(
    kinds: Sequence[str] = KINDS,
    *,
    architectures: Sequence[str] = ARCHITECTURES,
    again: bool = False,
) -> dict[str, Path]:
    """Compile the libraries that are not there yet.

    Args:
        kinds: "cpu", "cuda".
        architectures: GPU generations for "cuda", such as "90".
        again: compile what is there, too.

    Returns:
        The libraries by kind.

    Raises:
        OperatorError: a compiler is missing, or fails.
    """
    libraries = {}
    for kind in kinds:
        libraries[kind] = library_path(kind)
        if libraries[kind].is_file() and not again:
            logger.info("%s: already built, %s", kind, libraries[kind])
            continue
        _check_compiler()
        logger.info("%s: compiling; this takes a minute or more", kind)
        _compile(kind, libraries[kind], architectures)
        logger.info("%s: built and loaded, %s", kind, libraries[kind])
    return libraries


def buildable() -> list[str]:
    """Return the kinds that this machine has compilers and a PyTorch for."""
    import torch

    if torch.version.cuda is None:
        logger.info("cuda: left out; this PyTorch is built without CUDA")
    elif cuda_home() is None:
        logger.info("cuda: left out; there is no nvcc with its headers and libraries")
    else:
        return list(KINDS)
    return ["cpu"]


def cuda_home() -> Path | None:
    """Return the folder that holds nvcc's `bin`, `include` and libraries, or None.

    The program on the search path may be a script that starts the real one elsewhere, so nvcc
    itself is asked where it lies.
    """
    candidates = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), _top_of_nvcc()]
    for candidate in [*candidates, "/usr/local/cuda"]:
        if candidate and _is_toolkit(Path(candidate)):
            return Path(candidate)
    return None


def _is_toolkit(folder: Path) -> bool:
    runtime = [folder / name / "libcudart.so" for name in ("lib64", "lib")]
    return (
        (folder / "bin" / "nvcc").is_file()
        and (folder / "include" / "cuda_runtime.h").is_file()
        and any(file.exists() for file in runtime)
    )


def _top_of_nvcc() -> str | None:
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        return None
    try:
        done = subprocess.run(
            [nvcc, "--dryrun", "-x", "cu", "-E", os.devnull],
            capture_output=True,
            text=True,
            timeout=60,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    found = re.search(r"^#\$ TOP=(.+)$", done.stderr, flags=re.MULTILINE)
    return None if found is None else str(Path(found[1]).resolve())


def _check_compiler() -> None:
    compiler = os.environ.get("CXX", "c++")
    if shutil.which(compiler) is None:
        raise OperatorError(
            f"there is no C++ compiler ({compiler}); install one such as g++, or go on without: "
            "PyTorch's own operations are used instead"
        )


def _compile(kind: str, library: Path, architectures: Sequence[str]) -> None:
    """Compile in a folder beside the library, load it, and put it in place."""
    library.parent.mkdir(parents=True, exist_ok=True)
    options = _cuda_options(architectures) if kind == "cuda" else {}
    extension = _cpp_extension()
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        try:
            extension.load(
                name=library.stem,
                sources=[str(SOURCES / ("cuda.cu" if kind == "cuda" else "cpu.cpp"))],
                extra_cflags=list(_HOST_FLAGS),
                extra_ldflags=["-fopenmp", *options.pop("extra_ldflags", [])],
                build_directory=folder,
                is_python_module=False,
                **options,
            )
        except (RuntimeError, OSError, subprocess.SubprocessError) as error:
            logger.debug("compiling failed", exc_info=True)
            first = next((line for line in str(error).splitlines() if "error" in line), str(error))
            raise OperatorError(
                f"compiling the {kind} kernels failed: {first.strip()}; --log FILE keeps "
                "everything the compiler said"
            ) from None
        os.replace(Path(folder) / library.name, library)


def _cuda_options(architectures: Sequence[str]) -> dict[str, list[str]]:
    home = cuda_home()
    if home is None:
        raise OperatorError(
            "there is no nvcc with its headers and libraries; install the CUDA toolkit, or go on "
            "without: the package deformops or PyTorch's own operations are used instead"
        )
    _cpp_extension().CUDA_HOME = str(home)
    codes = [f"-gencode=arch=compute_{name},code=sm_{name}" for name in architectures]
    newest = max(architectures, key=int)
    codes.append(f"-gencode=arch=compute_{newest},code=compute_{newest}")
    return {
        "extra_cuda_cflags": ["-O3", *codes],
        "extra_ldflags": [f"-L{home / 'lib64'}", f"-L{home / 'lib'}"],
    }


def _cpp_extension() -> object:
    """Import PyTorch's builder quietly; it warns about a guess that is not used."""
    noisy = logging.getLogger("torch.utils.cpp_extension")
    level = noisy.level
    noisy.setLevel(logging.ERROR)
    try:
        from torch.utils import cpp_extension
    finally:
        noisy.setLevel(level)
    return cpp_extension
