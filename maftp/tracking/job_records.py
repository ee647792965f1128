"""Snakemake's records of its jobs, kept beside the results so that DVC versions both together.

Snakemake notes under `.snakemake/metadata` with which parameters, code and input digests it made a
file. Results that come from another clone or another commit come without these notes: Snakemake
would take everything for up to date, or for outdated by its time stamp. `save` copies the notes of
an experiment to `results/{experiment}/jobs/`, one file per stage of dvc.yaml; `restore` puts them
back for every file whose content is the one that was noted. No time stamp is trusted or changed.
"""

from __future__ import annotations

import hashlib
import json
import logging
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from maftp.files import atomic_path, sha256, write_json

logger = logging.getLogger(__name__)

Record = dict[str, Any]
"""Of one file: `content`, its digest, and `job`, what Snakemake noted."""

_METADATA = Path(".snakemake/metadata")
_INCOMPLETE = Path(".snakemake/incomplete")
_LONGEST_NAME = 254
_OF_EVALUATION = ("evaluation", "metrics.json", "plots")
_OF_TRAINING = ("weights.safetensors", "history.csv", "manifest.json")
_TABLES = ("table", "ablations")
_TIMESTAMP = ".snakemake_timestamp"
_CLOCK_SECONDS = 1e-3


def save(experiment: str, *, root: Path, project: Path = Path()) -> list[Path]:
    """Write the records of all files of an experiment that are there; return the files written.

    Args:
        experiment: its name.
        root: of its data sets, relative to the project.
        project: folder in which Snakemake ran.
    """
    folder = _folder(project, experiment)
    stages: dict[str, dict[str, Record]] = {}
    for name, job in _jobs(project):
        stage = _stage(Path(name), experiment, root)
        if stage is not None and not job.get("incomplete") and (project / name).exists():
            stages.setdefault(stage, {})[name] = {"job": job}
    written = []
    for stage, records in stages.items():
        path = folder / f"{stage}.json"
        before = _read(path)
        for name, record in records.items():
            if name in before and _is_same(before[name]["job"], record["job"]):
                records[name] = before[name]
            else:
                record["job"] = _with_checksums(record["job"], project)
                record["content"] = _digest(project / name)
        ordered = dict(sorted(records.items()))
        if ordered != before:
            write_json(path, ordered)
            written.append(path)
    return written


def restore(experiment: str, *, project: Path = Path()) -> list[str]:
    """Give Snakemake the records of files that it did not make itself; return their names.

    A record is taken when the file has the content it tells of, and Snakemake either has none or
    made the file before something else replaced it.

    Args:
        experiment: its name.
        project: folder in which Snakemake runs.
    """
    restored = []
    # Snakemake takes notes without this folder for those of an old version.
    (project / _INCOMPLETE).mkdir(parents=True, exist_ok=True)
    for path in sorted(_folder(project, experiment).glob("*.json")):
        for name, record in _read(path).items():
            if _is_foreign(project, name, record["job"]) and (
                _digest(project / name) == record["content"]
            ):
                place = _place(project / _METADATA, name)
                with atomic_path(place) as temporary:
                    temporary.write_text(json.dumps(record["job"]))
                _place(project / _INCOMPLETE, name).unlink(missing_ok=True)
                restored.append(name)
    if restored:
        logger.info("took over the records of %d files that Snakemake did not make", len(restored))
    return restored


def _is_same(kept: Mapping[str, Any], job: Mapping[str, Any]) -> bool:
    """Tell whether a kept note is that of Snakemake, perhaps with more checksums."""
    checksums = kept.get("input_checksums") or {}
    return {**kept, "input_checksums": None} == {**job, "input_checksums": None} and (
        checksums.items() >= (job.get("input_checksums") or {}).items()
    )


def _with_checksums(job: Mapping[str, Any], project: Path) -> dict[str, Any]:
    """Add the digests of inputs that Snakemake left out as too large for its settings.

    Only of inputs that are older than the output: these are still what the job read.
    """
    checksums = dict(job.get("input_checksums") or {})
    for name in set(job.get("input") or ()) - checksums.keys():
        path = project / name
        if path.is_file() and _modified(path) <= job.get("endtime", 0):
            checksums[name] = f"sha256:{sha256(path)}"
    return {**job, "input_checksums": dict(sorted(checksums.items()))}


def _is_foreign(project: Path, name: str, job: Mapping[str, Any]) -> bool:
    """Tell whether a file is there that Snakemake knows nothing of, or another version of."""
    path = project / name
    if not path.exists():
        return False
    own = _read(_place(project / _METADATA, name))
    if own == job:
        return False
    return (
        not own
        or _is_same(job, own)
        or abs(own.get("endtime", 0) - _modified(path)) > _CLOCK_SECONDS
    )


def _stage(path: Path, experiment: str, root: Path) -> str | None:
    """Return the stage of dvc.yaml that makes a file; None for what none of them makes."""
    parts = path.parts
    if path.is_absolute():
        return None
    if path.is_relative_to(root):
        return "datasets"
    if parts[0] == "weights":
        return "clip" if parts[1] == "clip" or experiment in parts else None
    if parts[0] != "results" or (len(parts) > 2 and parts[1] != experiment):
        return None
    if len(parts) > 4 and parts[3].startswith("seed"):
        steps = {"evaluate": _OF_EVALUATION, "train": _OF_TRAINING}
        step = next((name for name, made in steps.items() if parts[4] in made), None)
        return step and f"{step}-{parts[2]}-{parts[3].removeprefix('seed')}"
    return path.stem if path.stem in _TABLES and len(parts) == 3 else None


def _folder(project: Path, experiment: str) -> Path:
    return project / "results" / experiment / "jobs"


def _jobs(project: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the name of every file Snakemake has made, and what it noted."""
    metadata = project / _METADATA
    for path in sorted(metadata.rglob("*")):
        if path.is_file():
            code = "".join(part.removeprefix("@") for part in path.relative_to(metadata).parts)
            try:
                yield urlsafe_b64decode(code).decode(), json.loads(path.read_text())
            except ValueError:  # being written, or none of Snakemake's
                logger.debug("%s: no record of a job", path)


def _place(folder: Path, name: str) -> Path:
    """Return where Snakemake keeps the record of a file: its name in base 64, cut into folders."""
    code = urlsafe_b64encode(name.encode()).decode()
    parts = [code[i : i + _LONGEST_NAME] for i in range(0, len(code), _LONGEST_NAME)]
    return folder.joinpath(*(f"@{part}" for part in parts[:-1]), parts[-1])


def _modified(path: Path) -> float:
    """Return the time Snakemake goes by; for a folder it touches a file in it."""
    stamp = path / _TIMESTAMP
    return (stamp if stamp.exists() else path).lstat().st_mtime


def _digest(path: Path) -> str:
    if not path.is_dir():
        return sha256(path)
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")):
        if file.is_file() and file.name != _TIMESTAMP:
            digest.update(f"{file.relative_to(path).as_posix()} {sha256(file)}\n".encode())
    return digest.hexdigest()


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
