"""Digest of the code behind a result, blind to comments, docstrings and formatting.

Snakemake reruns a job when its rule changes, but cannot see the modules behind a command. Rules
record this digest as a parameter: an edit that can change a number reruns what depends on it.
"""

from __future__ import annotations

import ast
import hashlib
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent


def source_digest(*places: str) -> str:
    """Return 16 hexadecimal digits over the syntax trees of modules and packages of maftp.

    Args:
        places: paths below the package, such as `losses`, `data/mapper` or `data/sources.yaml`.

    Raises:
        ValueError: a place is neither a module nor a package.
    """
    digest = hashlib.sha256()
    for place in places:
        for file in _files(place):
            digest.update(file.relative_to(PACKAGE).as_posix().encode())
            digest.update(_meaning(file))
    return digest.hexdigest()[:16]


def _files(place: str) -> list[Path]:
    path = PACKAGE / place
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.suffix in {".py", ".yaml", ".json"})
    for file in (path, path.with_suffix(".py")):
        if file.is_file():
            return [file]
    raise ValueError(f"{place}: no module or package of maftp")


def _meaning(file: Path) -> bytes:
    """Return what of a file can change a result: its syntax tree, or its bytes if it is no code."""
    if file.suffix != ".py":
        return file.read_bytes()
    tree = ast.parse(file.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if ast.get_docstring(node, clean=False) is not None:
                node.body = node.body[1:]
    return ast.dump(tree).encode()
