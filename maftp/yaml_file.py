"""YAML that people write: read strictly, and refused in one sentence.

PyYAML takes the last of two equal keys without a word, follows a file that contains itself for
ever, and expands a few lines into gigabytes.

A run freezes what it reads: `freeze` writes values to a file named after their digest, and
`read_yaml` refuses such a file once its content is another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from maftp.errors import MaftpError
from maftp.files import atomic_path

MOST_VALUES = 100_000
"""Values of one file, aliases expanded; the largest catalogs have a few thousand."""

FROZEN = ".params"
"""Folder of frozen files."""


def freeze(values: Mapping[str, Any], folder: Path, *, name: str) -> Path:
    """Write plain values to `{folder}/.params/{name}-{digest}.yaml`, out of reach of edits.

    Returns:
        The file; it is left alone when it is there.
    """
    content = yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True).encode()
    file = folder / FROZEN / f"{name}-{_digest(content)}.yaml"
    if not file.is_file() or file.read_bytes() != content:
        with atomic_path(file) as temporary:
            temporary.write_bytes(content)
    return file


def is_frozen(file: Path) -> bool:
    """Tell whether a file was written by `freeze`."""
    return file.parent.name == FROZEN


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def read_yaml(path: Path, *, kind: str, error: type[MaftpError]) -> dict[str, Any]:
    """Return the keys and values of a YAML file.

    Args:
        path: the file.
        kind: what it is to the user, such as "parameter file".
        error: class of what is raised.

    Raises:
        MaftpError: of class `error`; the file is missing, no text, no YAML, no mapping, names a key
            twice, contains itself, or was frozen and then edited.
    """
    try:
        content = path.read_bytes()
        values = yaml.load(content.decode("utf-8-sig"), Loader=_Loader)  # noqa: S506
        _check_size(values)
    except FileNotFoundError:
        raise error(f"{path}: no such {kind}") from None
    except IsADirectoryError:
        raise error(f"{path}: is a folder; name a {kind} (.yaml)") from None
    except OSError as problem:
        raise error(f"{path}: cannot be read ({problem.strerror})") from None
    except UnicodeDecodeError:
        raise error(f"{path}: not UTF-8 text; save the {kind} as UTF-8") from None
    except (yaml.YAMLError, ValueError, RecursionError) as problem:
        reason = " ".join(str(problem).replace('in "<unicode string>", ', "at ").split())
        raise error(f"{path}: not readable as YAML: {reason}") from None
    if is_frozen(path) and not path.stem.endswith(_digest(content)):
        raise error(
            f"{path}: edited since the run began that reads it; delete it and start snakemake again"
        )
    if not isinstance(values, dict):
        found = "nothing" if values is None else type(values).__name__
        raise error(f"{path}: expected keys and values, found {found}")
    return values


class _Loader(yaml.SafeLoader):
    """Reads plain values only, and each key once."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":  # `<<` lays another mapping below this
                continue
            key = self.construct_object(key_node, deep=True)
            reason = None
            if not isinstance(key, str):
                reason = f"key {key!r} is not text; put it in quotes"
            elif key in seen:
                reason = f"key {key!r} stands there twice; keep one"
            if reason is not None:
                mark = key_node.start_mark
                raise yaml.constructor.ConstructorError(None, None, reason, mark)
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


def _check_size(value: Any) -> None:
    """Count values as often as they are mentioned.

    Raises:
        ValueError: there are too many, as in a file that contains itself.
    """
    left, count = [value], 0
    while left:
        value = left.pop()
        count += 1
        if count > MOST_VALUES:
            raise ValueError(f"more than {MOST_VALUES} values; does an alias contain itself?")
        if isinstance(value, Mapping):
            left.extend(value.values())
        elif isinstance(value, list | tuple | set):
            left.extend(value)
