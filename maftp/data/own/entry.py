"""Enter a checked set: its files linked below the datasets root, its entry in the own catalog.

The catalog is written last, so that a run that stops before leaves no half of a set behind.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from maftp.data.catalog import load_catalog, read_overlay
from maftp.data.layout import index_path, manifest_path, stamp_path, vocabulary_path
from maftp.data.own.checked import Checked
from maftp.data.transfer import full_disk_named
from maftp.errors import DataError
from maftp.files import atomic_path, link_or_copy
from maftp.lock import locked

_HEAD = "# Your own data sets, as `maftp data add` enters them; data.own names this file.\n"
_NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]*"
_MOST_OF_A_BYTE = 254
"""Classes of an 8-bit label map; one value is no class, one marks what is refused."""


def enter(checked: Checked, *, name: str, split: str, root: Path, own: Path, replace: bool) -> None:
    """Put a split below `root` and write its entry into the catalog `own`.

    Args:
        checked: the split.
        name: of the data set, and of the benchmark that its validation split is.
        split: train or val.
        root: datasets root.
        own: catalog of own data, made when missing.
        replace: put it in the place of what was added under this name before.

    Raises:
        DataError: the name is taken, or the other split is of another kind or has other names.
    """
    with locked(own.with_name(f".{own.name}.lock")):
        values = entered(own)
        check_name(name, split, values, replace=replace)
        entry = _dataset(checked, name, split, (values.get("datasets") or {}).get(name), root)
        folder = root / "own" / name / split
        with full_disk_named(f"{name} in {root}"), _whole_folder(folder) as staging:
            _place(checked, staging, suffix=entry["image_suffix"])
        names = vocabulary_path(root, name)
        if not names.exists() or names.read_bytes() != checked.names.text:
            with atomic_path(names) as temporary:
                temporary.write_bytes(checked.names.text)
            stamp_path(root, f"vocabulary_{name}").unlink(missing_ok=True)
        _forget(name, split, root)
        _write(own, _with(values, checked, name, split, entry))


def entered(own: Path) -> dict[str, Any]:
    """Return what the catalog of own data holds; nothing where there is none yet.

    Raises:
        DataError: it is damaged.
    """
    return read_overlay(own) if own.exists() else {}


def check_name(name: str, split: str, values: dict[str, Any], *, replace: bool) -> None:
    """Check that a set can be called so.

    Raises:
        DataError: the catalog has such a set or benchmark, or this split was added before.
    """
    if not re.fullmatch(_NAME, name):
        raise DataError(f"{name!r} is no name for files; use letters, digits, '_', '-' and '.'")
    official = load_catalog()
    if name in official.datasets or name in official.benchmarks or name in official.sources:
        raise DataError(f"{name!r} is a name in the catalog of the package; choose another name")
    before = (values.get("datasets") or {}).get(name) or {}
    if split in (before.get("splits") or {}) and not replace:
        raise DataError(
            f"{name}, {split}: added before; choose another name, or --replace what was added"
        )


def _dataset(
    checked: Checked, name: str, split: str, before: dict[str, Any] | None, root: Path
) -> dict[str, Any]:
    """Return the entry of the data set, with its other split as it was."""
    others = {k: v for k, v in ((before or {}).get("splits") or {}).items() if k != split}
    if others:
        _check_alike(checked, name, next(iter(others)), before or {}, root)
    classes = len(checked.names.vocabulary)
    wide = classes > _MOST_OF_A_BYTE
    endings = {image.suffix.lower() for image in checked.images.values()}
    suffix = before["image_suffix"] if others and before else _suffix(endings)
    ignored = set(checked.ignored_values)
    if others and before:
        ignored |= set(before.get("ignored_values") or ())
    splits = others | {split: _split(checked, name, split)}
    return {
        "title": f"{name}, your own data",
        "sources": [*(f"own_{name}_{key}" for key in splits), f"vocabulary_{name}"],
        "converter": checked.converter,
        "kind": checked.kind,
        "vocabulary": name,
        "keep_row_zero": True,
        "classes": classes,
        "ignore_label": 65535 if wide else 255,
        "ignored_values": sorted(ignored),
        "image_suffix": suffix,
        "label_suffix": ".tif" if wide else ".png",
        "evaluator_type": {"panoptic": "coco_panoptic_seg", "instance": "coco"}.get(
            checked.kind, "sem_seg"
        ),
        "splits": {key: splits[key] for key in sorted(splits)},  # train, val
    }


def _suffix(endings: set[str]) -> str:
    """Return how links to images end; what an image is, its contents say."""
    return ".png" if endings == {".png"} else ".jpg"


def _check_alike(
    checked: Checked, name: str, other: str, before: dict[str, Any], root: Path
) -> None:
    if before.get("kind") != checked.kind:
        raise DataError(
            f"{name}: its split {other} is {before.get('kind')}, this one is {checked.kind}; add "
            "this one under another name"
        )
    path = vocabulary_path(root, name)
    if path.exists() and path.read_bytes() != checked.names.text:
        raise DataError(
            f"{checked.names.where}: not the names of {name}'s split {other} ({path}); use the "
            "same list, or add this one under another name"
        )


def _split(checked: Checked, name: str, split: str) -> dict[str, Any]:
    below = f"own/{name}/{split}"
    places = {
        key: {role: f"{below}/{path}" for role, path in value.items()}
        if isinstance(value, dict)
        else f"{below}/{value}"
        for key, value in checked.places.items()
    }
    return {
        "name": f"own_{name}_{split}",
        "count": len(checked.images),
        "images": f"{below}/images",
    } | places


def _place(checked: Checked, folder: Path, *, suffix: str) -> None:
    for stem, image in checked.images.items():
        link_or_copy(image.resolve(), folder / "images" / f"{stem}{suffix}")
    for place, content in checked.files.items():
        target = folder / place
        if isinstance(content, Path):
            link_or_copy(content.resolve(), target)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content())


@contextmanager
def _whole_folder(folder: Path) -> Iterator[Path]:
    """Yield a folder beside `folder` and give it that name once it is filled.

    Unlike `atomic_path` it leaves the permissions of files alone: they may be the user's own.
    """
    staging = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    for leftover in folder.parent.glob(f".{folder.name}.*.part"):
        shutil.rmtree(leftover, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        yield staging
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(staging, folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _forget(name: str, split: str, root: Path) -> None:
    """Remove what tells that this set was converted, so that the workflow converts it anew."""
    manifest = manifest_path(root, name)
    for note in (
        manifest,
        index_path(root, name, split),
        stamp_path(root, f"own_{name}_{split}"),
        manifest.with_name(f".{name}.sources.json"),
    ):
        note.unlink(missing_ok=True)


def _with(
    values: dict[str, Any], checked: Checked, name: str, split: str, entry: dict[str, Any]
) -> dict[str, Any]:
    """Return the catalog with this set in it."""
    below = f"own/{name}/{split}"
    made = [f"{below}/images", *(f"{below}/{Path(p).parts[0]}" for p in checked.files)]
    source = {"title": f"{name}, {split}", "own": True, "licence": "your own"}
    names = f"{name}_with_prompt_eng.txt"
    sources = (values.get("sources") or {}) | {
        f"own_{name}_{split}": source
        | {"file": f"own_{name}_{split}", "unpack": "own", "makes": list(dict.fromkeys(made))},
        f"vocabulary_{name}": source
        | {"title": f"Class names, {name}", "file": names, "place": f"vocabularies/{names}"}
        | {"makes": [f"vocabularies/{names}"]},
    }
    benchmarks = dict(values.get("benchmarks") or {})
    if "val" in entry["splits"]:
        benchmarks[name] = {
            "dataset": name, "split": "val", "metric": checked.kind, "optional": True,
        }  # fmt: skip
    datasets = (values.get("datasets") or {}) | {name: entry}
    return values | {"sources": sources, "datasets": datasets, "benchmarks": benchmarks}


def _write(own: Path, values: dict[str, Any]) -> None:
    with atomic_path(own) as temporary:
        text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=100)
        temporary.write_text(_HEAD + text)
        load_catalog(own=temporary)
