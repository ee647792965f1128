"""The rules, read as text: every placeholder is quoted, and all code that a command runs counts."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path

import grimp
import pytest

from maftp.cli import create_app
from maftp.tracking import source

ROOT = Path(__file__).resolve().parents[2]
RULES_FOLDER = ROOT / "workflow" / "rules"
FILES = sorted(RULES_FOLDER.glob("*.smk"))
HEAVY = {"torch", "detectron2", "open_clip", "ray", "mlflow", "matplotlib"}
"""What each takes a second or more to import; `snakemake -n` does without."""

GRAPH = grimp.build_graph("maftp", exclude_type_checking_imports=True, cache_dir=None)
RULES = {
    re.search(r'(?:rule |name:\s+f")([a-z]\w*[a-z])', text)[1]: text
    for file in FILES
    for text in re.findall(
        r"^ *rule ?\w*:\n(?:.|\n)*?(?=^ *rule ?\w*:|\Z)",
        re.sub(r"^ *#.*\n", "", file.read_text(), flags=re.M),
        re.M,
    )
}
UNWATCHED = {
    "clip": "makes the same file of the same weights",
    "download": "decides by digests",
    "released_weights": "makes the same file of the same weights",
    "report_page": "Snakemake makes it",
    "report_parts": "makes nothing",
    "resolved_params": "writes the parameters down",
    "unpack": "decides by digests",
    "ablations": "copies",
    "table": "copies",
}
"""Rules that no edit of the code makes stale, with the reason."""
NAMES_ONLY = {"train": {"maftp.results"}}
"""Modules that a command imports for the names of files alone: no edit of them redoes its work."""


def shell(rule: str) -> str:
    found = re.search(r'^ *shell:\n((?: *".*\n)*)', RULES[rule], re.M)
    return found[1] if found else ""


def imports(tree: ast.AST) -> set[str]:
    """Return the modules of maftp that a piece of code imports."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("maftp."):
            found.add(node.module.removeprefix("maftp."))
    return found


def command_imports(name: str) -> set[str]:
    """Return what the function of a command imports, or one beside it that it calls."""
    command = create_app()[name].default_command
    tree = ast.parse(inspect.getsource(inspect.getmodule(command)))
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    own = functions[command.__name__]
    called = {n.func.id for n in ast.walk(own) if isinstance(n, ast.Call) and hasattr(n.func, "id")}
    return set().union(*(imports(functions[n]) for n in {own.name, *called} & functions.keys()))


def watched(rule: str) -> set[Path]:
    text = re.search(r"code=code_mark\(((?:.|\n)*?)\),\n", RULES[rule])
    return set(source.code_files(*re.findall(r'"([\w.]+)"', text[1]))) if text else set()


def test_all_rules_are_seen():
    assert {"train", "evaluate", "convert", "figure", "table", "world"} <= set(RULES)
    assert len(RULES) > 20


@pytest.mark.parametrize("rule", sorted(RULES))
def test_every_placeholder_is_quoted(rule):
    for placeholder in re.findall(r"\{([^{}]+)\}", shell(rule)):
        assert placeholder.endswith(":q"), f"{rule}: {{{placeholder}}}"
    assert "'{" not in shell(rule)


@pytest.mark.parametrize("rule", sorted(rule for rule in RULES if "maftp " in shell(rule)))
def test_all_code_that_a_command_runs_is_watched_or_excused(rule):
    command = re.search(r"maftp ([\w-]+)", shell(rule))[1]
    if rule in UNWATCHED:
        assert not watched(rule)
        return
    reached = set()
    for module in command_imports(command):
        reached |= {f"maftp.{module}"} | GRAPH.find_upstream_modules(f"maftp.{module}")
    files = {source._file(name) for name in reached - NAMES_ONLY.get(rule, set())}
    needed = {file for file in files if not source._is_excused(file)}
    assert watched(rule) >= needed, sorted(str(p) for p in needed - watched(rule))
    assert watched(rule) and "--code {params.code:q}" in shell(rule)


def test_every_reason_is_of_a_rule():
    assert UNWATCHED.keys() | NAMES_ONLY.keys() <= RULES.keys()


PLANNING = sorted(
    {
        module
        for file in RULES_FOLDER.glob("*.smk")
        for module in re.findall(r"^from (maftp[\w.]*) import", file.read_text(), re.M)
    }
)
DATA = [
    "maftp.data.download",
    "maftp.data.unpack",
    "maftp.data.convert.run",
    "maftp.miniworld.archives",
]


@pytest.mark.parametrize("modules", [PLANNING, DATA], ids=["planning", "data"])
def test_planning_and_data_import_no_framework(modules):
    script = f"import sys, {', '.join(modules)}; print(*{HEAVY} & sys.modules.keys())"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []
