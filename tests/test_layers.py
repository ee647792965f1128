"""Imports run one way: lower packages never reach up, and frameworks stay at their edge."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "maftp"
BASE = {
    "errors",
    "files",
    "lock",
    "progress",
    "config",
    "grid",
    "yaml_file",
    "credentials",
    "memory",
}
ALLOWED = {
    "ops": BASE,
    "data": BASE,
    "tracking": BASE,
    "losses": {"errors", "config"},
    "modeling": BASE | {"ops", "losses", "data.vocabulary"},
    "machine": BASE | {"data.catalog", "data.layout"},
    "miniworld": BASE | {"data"},
    "training": BASE | {"ops", "data", "losses", "modeling", "tracking", "evaluation"},
    "evaluation": BASE | {"ops", "data", "modeling", "tracking", "report.figures"},
    "inspection": BASE | {"data", "modeling", "evaluation", "report.figures"},
    "report": BASE,
    "regions": set(),
    "api": BASE | {"regions", "modeling", "data.mapper"},
    "prediction": BASE | {"api", "regions", "report.figures", "data.images", "data.vocabulary"},
    "demo": BASE | {"api", "prediction", "miniworld"},
    "export": BASE | {"api", "ops", "modeling", "data.vocabulary"},
}
MLFLOW = ("comparison", "mlflow_logger", "mlflow_runs", "mlflow_store", "registry", "served_model")
FRAMEWORKS = {
    "ray": {f"training/{name}.py" for name in ("launch", "ray_cluster", "ray_workers")},
    "nicegui": {"demo/page.py"},
    "mlflow": {f"tracking/{name}.py" for name in MLFLOW},
}

MODULES = sorted(PACKAGE.rglob("*.py"))


def imported(file: Path) -> set[str]:
    """Return the dotted names a file imports, inside functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: import by the full name, not relatively"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def below(name: str, allowed: set[str]) -> bool:
    return any(name == place or name.startswith(place + ".") for place in allowed)


@pytest.mark.parametrize("file", MODULES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_run_one_way(file):
    layer = file.relative_to(PACKAGE).with_suffix("").parts[0]
    if layer not in ALLOWED:
        return
    ours = {name.removeprefix("maftp.") for name in imported(file) if name.startswith("maftp.")}
    wrong = {name for name in ours if not below(name, ALLOWED[layer] | {layer})}
    assert not wrong, f"{layer} must not import {sorted(wrong)}"


@pytest.mark.parametrize("framework", sorted(FRAMEWORKS))
def test_frameworks_stay_at_their_edge(framework):
    users = {
        str(file.relative_to(PACKAGE))
        for file in MODULES
        if any(name.split(".")[0] == framework for name in imported(file))
    }
    assert users <= FRAMEWORKS[framework]


def test_no_drawers():
    drawers = {"utils", "misc", "helpers", "common", "legacy"}
    assert not [file for file in MODULES if drawers & set(file.with_suffix("").parts)]
