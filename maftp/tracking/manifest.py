"""What a run was made of: code, parameters, data, packages, device, seed and command.

The manifest lies beside the weights as `manifest.json`; MLflow gets the same dictionary.
"""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maftp.credentials import cleaned
from maftp.files import sha256
from maftp.tracking.source import PACKAGE, code_digest

if TYPE_CHECKING:
    from maftp.config import Params

PACKAGES = (
    "maftp", "torch", "torchvision", "detectron2", "open_clip_torch", "timm", "numpy", "scipy",
    "pillow", "opencv-python-headless", "ray", "mlflow", "snakemake", "safetensors",
)  # fmt: skip
"""Packages whose versions can change a result."""

TRAINING_CODE = "training.worker"
"""Module whose code, with all it imports, decides about trained weights."""


def training_digest(params: Params, *, seed: int, inputs: Sequence[str]) -> str:
    """Return 16 hexadecimal digits over everything the trained weights and their history depend on.

    A checkpoint made under another digest belongs to another run.

    Args:
        params: one variant of an experiment.
        seed: of the run.
        inputs: digests of the files the run reads, in a fixed order.
    """
    values = params.model_dump(mode="json")
    parts = {key: values[key] for key in ("clip", "model", "train")}
    parts["input"] = {key: value for key, value in values["input"].items() if key != "test"}
    parts |= {"dataset": params.data.train, "seed": seed, "inputs": list(inputs)}
    modules = [TRAINING_CODE]
    if params.train.validation is not None:  # by these the best weights are chosen
        parts["validation"] = [values["evaluate"], values["input"]["test"]]
        modules.append("training.validation")
    parts["code"] = code_digest(*modules)
    return digest_of(parts)


def digest_of(value: Any) -> str:
    """Return 16 hexadecimal digits over a value of JSON's types, whatever the order of keys."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def collect_manifest(
    params: Params, *, variant: str, seed: int, inputs: Mapping[str, str], device: str
) -> dict[str, Any]:
    """Gather what a run was made of.

    Args:
        params: parameters of the variant, with its overrides applied.
        variant: its name.
        seed: of the run.
        inputs: digests of the files the run reads, such as CLIP's weights, by path.
        device: what it runs on, such as "cpu" or "cuda".
    """
    return {
        "experiment": params.experiment,
        "variant": variant,
        "seed": seed,
        "params": cleaned(params.model_dump(mode="json")),
        "params_digest": digest_of(params.model_dump(mode="json")),
        "inputs": dict(inputs),
        "source_digest": code_digest(TRAINING_CODE),
        "packages": package_versions(),
        "device": device,
        **circumstances(),
    }


def circumstances() -> dict[str, Any]:
    """Return what the way back from a result to its making needs: commit, command and machine."""
    return {
        **_commit(),
        "command": cleaned([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "host": platform.node(),
        "platform": platform.platform(),
        "python": platform.python_version(),
    }


def input_digests(
    files: Sequence[Path], *, digest: Callable[[Path], str] = sha256
) -> dict[str, str]:
    """Return the digests of files; those below the working directory by their relative path."""
    here = Path.cwd()
    places = {file: Path(file).absolute() for file in files}
    return {
        str(place.relative_to(here) if place.is_relative_to(here) else place): digest(file)
        for file, place in places.items()
    }


def package_versions() -> dict[str, str]:
    """Return the versions of those of `PACKAGES` that are installed."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _commit() -> dict[str, Any]:
    """Return the commit of the code and whether it was edited since; both None without git."""
    commit = _git("rev-parse", "HEAD")
    # DVC writes dvc.lock while it runs; that is a result, no edit.
    status = _git("status", "--porcelain", "--", ":/", ":(top,exclude)dvc.lock") if commit else None
    return {"commit": commit, "dirty": None if status is None else bool(status)}


def _git(*arguments: str) -> str | None:
    command = ["git", "-C", str(PACKAGE), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
