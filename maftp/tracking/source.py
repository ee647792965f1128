"""Digest of the code behind a result, blind to comments, docstrings and formatting.

Snakemake reruns a job when its rule changes, but cannot see the modules behind a command. Rules
record this digest as a parameter: an edit that can change a number reruns what depends on it. What
counts is derived from the imports: a module, all it imports, and the data files they name, but for
`EXCUSED`.
"""

from __future__ import annotations

import ast
import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import grimp

from maftp.errors import MaftpError

PACKAGE = Path(__file__).resolve().parent.parent
NAME = "maftp"

EXCUSED = {
    "api": "hands a segmentation out; the commands of rules import what they need directly",
    "blocks": "rules record the values they depend on",
    "config": "rules record the values they depend on",
    "credentials": "keeps passwords out of what is noted",
    "data.sources.yaml": "rules record the catalog entries they depend on",
    "data.fingerprint": "notes what the image libraries do",
    "data.inventory": "finds what is missing, makes nothing",
    "errors": "words for mistakes",
    "files": "writes in one go what others computed",
    "gpus": "chooses where something is computed",
    "grid": "rules record the values of each cell",
    "memory": "measures memory, not results",
    "lock": "keeps two processes apart",
    "process_pool": "starts and ends processes",
    "progress": "draws bars",
    "tracking": "notes what was done",
    "training.failure": "words and a dump for what failed",
    "training.launch": "starts workers; their loop is training.worker",
    "training.mirror": "copies checkpoints",
    "training.ray_cluster": "starts Ray",
    "training.ray_workers": "starts workers; their loop is training.worker",
    "training.run_folder": "decides which checkpoint to go on from",
    "training.slurm": "starts Ray on a cluster's nodes",
    "training.worker_files": "what driver and workers tell each other",
    "yaml_file": "reads values that rules record",
}
"""Places that no number depends on, with the reason."""


def code_digest(*modules: str) -> str:
    """Return 16 hexadecimal digits over the code that `modules` run.

    Args:
        modules: names below the package, such as `training.worker`; a package stands for all of
            its modules.

    Raises:
        ValueError: there is no such module.
    """
    digest = hashlib.sha256()
    for file in code_files(*modules):
        digest.update(file.relative_to(PACKAGE).as_posix().encode())
        digest.update(_read(file, file.stat().st_mtime_ns).meaning)
    return digest.hexdigest()[:16]


def code_mark(*modules: str) -> str:
    """Return the names of modules with the digest of the code they run, for `check_code`."""
    return f"{'+'.join(modules)}:{code_digest(*modules)}"


def check_code(mark: str) -> None:
    """Refuse to go on with other code than `code_mark` saw.

    Raises:
        MaftpError: the code was edited meanwhile.
    """
    modules = mark.rpartition(":")[0]
    try:
        same = code_mark(*modules.split("+")) == mark
    except ValueError:  # a module is gone
        same = False
    if not same:
        raise MaftpError(
            f"the code of {modules} was edited since this run began; start snakemake again, "
            "it redoes what the edit touches"
        )


def code_files(*modules: str) -> list[Path]:
    """Return the files that count for `modules`, sorted: what they import, and data files named."""
    graph = _graph(PACKAGE)
    chosen: set[str] = set()
    for module in modules:
        own = f"{NAME}.{module}"
        if own not in graph.modules:
            raise ValueError(f"{module}: no module or package of {NAME}")
        chosen |= {own} | graph.find_descendants(own)
    for own in tuple(chosen):
        chosen |= graph.find_upstream_modules(own)
    files = {_file(name) for name in chosen}
    named = {data for file in files for data in _data_files(file) if not _is_excused(data)}
    return sorted(files | named)


@cache
def _graph(package: Path) -> grimp.ImportGraph:
    """Return who imports whom, with neither what is excused nor what only that imports."""
    graph = grimp.build_graph(NAME, exclude_type_checking_imports=True, cache_dir=None)
    for name in graph.modules.copy():
        if _is_excused(_file(name)):
            graph.remove_module(name)
    return graph


def _is_excused(file: Path) -> bool:
    parts = file.relative_to(PACKAGE).with_suffix("" if file.suffix == ".py" else file.suffix).parts
    return any(".".join(parts[:length]) in EXCUSED for length in range(1, len(parts) + 1))


def _file(module: str) -> Path:
    """Return the file of a module: `__init__.py` of a package."""
    path = PACKAGE.joinpath(*module.split(".")[1:])
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _data_files(file: Path) -> set[Path]:
    """Return data files, and files of data folders, beside a module that names them in its text."""
    beside = {path.name: path for path in file.parent.iterdir() if not path.name.startswith("_")}
    found: set[Path] = set()
    for name in _read(file, file.stat().st_mtime_ns).texts & beside.keys():
        path = beside[name]
        inside = path.glob("*") if path.is_dir() else [path]
        found |= {data for data in inside if data.is_file() and data.suffix != ".py"}
    return found


@dataclass(frozen=True)
class _Contents:
    meaning: bytes
    """Digest of what can change a result: of the syntax tree, or of all bytes if it is not code."""
    texts: frozenset[str]
    """The texts in a module."""


@cache
def _read(file: Path, modified: int) -> _Contents:
    content = file.read_bytes()
    if file.suffix != ".py":
        return _Contents(hashlib.sha256(content).digest(), frozenset())
    tree = ast.parse(content)
    texts: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            texts.add(node.value)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if ast.get_docstring(node, clean=False) is not None:
                node.body = node.body[1:]
    return _Contents(hashlib.sha256(ast.dump(tree).encode()).digest(), frozenset(texts))
