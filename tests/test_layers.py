"""Imports run one way: lower packages never reach up, and frameworks stay at their edge."""

from graphlib import CycleError, TopologicalSorter

import grimp
import pytest

BASE = {
    "blocks",
    "errors",
    "files",
    "lock",
    "process_pool",
    "progress",
    "config",
    "grid",
    "yaml_file",
    "credentials",
    "memory",
    "constants",
    "results",
}
ALLOWED = {
    "": {"api"},
    "errors": set(),
    "gpus": {"errors"},
    "lock": set(),
    "process_pool": set(),
    "progress": set(),
    "grid": set(),
    "credentials": set(),
    "memory": set(),
    "constants": set(),
    "files": {"errors"},
    "yaml_file": {"errors", "files"},
    "results": {"errors", "grid"},
    "blocks": set(),
    "config": {"blocks", "errors", "grid", "yaml_file"},
    "ops": BASE,
    "data": BASE,
    "tracking": BASE,
    "losses": {"constants", "errors", "config"},
    "modeling": BASE | {"ops", "losses", "data.catalog", "data.vocabulary"},
    "needs": {"config", "data.catalog", "errors", "files", "results"},
    "machine": BASE | {"data.catalog", "data.layout", "gpus"},
    "doctor": BASE | {"machine", "gpus", "needs", "data", "ops", "tracking"},
    "miniworld": BASE | {"data"},
    "training": BASE | {"ops", "data", "losses", "modeling", "tracking", "evaluation"},
    "evaluation": BASE | {"ops", "data", "modeling", "tracking", "report.figures"},
    "report": BASE | {"data.catalog"},
    "regions": set(),
    "hub": BASE | {"modeling"},
    "api": BASE | {"hub", "regions", "modeling", "data.mapper"},
    "apps": BASE
    | {"api", "regions", "ops", "modeling", "miniworld", "report.figures"}
    | {"data.images", "data.vocabulary"},
}
ALLOWED["cli"] = set(ALLOWED) - {""}  # the top: it may use all, and nothing may use it
EXCEPTIONS = {
    # runs in the process that serves a model, and uses the package as any program would
    "maftp.tracking.served_model": {""},
}
MLFLOW = ("mlflow_logger", "mlflow_runs", "mlflow_store", "served_model")
FRAMEWORKS = {
    "ray": {f"maftp.training.{name}" for name in ("launch", "ray_cluster", "ray_workers")},
    "nicegui": {"maftp.apps.demo", "maftp.apps.demo_panel"},
    "mlflow": {f"maftp.tracking.{name}" for name in MLFLOW},
    "cyclopts": {"maftp.cli"},
}
IMPORTS = grimp.build_graph("maftp", include_external_packages=True, cache_dir=None)
"""All imports, those inside functions and for annotations too."""
MODULES = sorted(name for name in IMPORTS.modules if name.split(".")[0] == "maftp")


def below(name: str, allowed: set[str]) -> bool:
    return any(name == place or name.startswith(place + ".") for place in allowed)


@pytest.mark.parametrize("module", MODULES)
def test_imports_run_one_way(module):
    layer = module.partition(".")[2].partition(".")[0]
    ours = {
        name.removeprefix("maftp").removeprefix(".")
        for name in IMPORTS.find_modules_directly_imported_by(module)
        if name.split(".")[0] == "maftp"
    }
    allowed = ALLOWED[layer] | {layer} | EXCEPTIONS.get(module, set())
    wrong = {name for name in ours if not below(name, allowed)}
    assert not wrong, f"{layer or 'maftp'} must not import {sorted(wrong)}"


def test_no_circles():
    graph = grimp.build_graph("maftp", exclude_type_checking_imports=True, cache_dir=None)
    imports = {name: graph.find_modules_directly_imported_by(name) for name in graph.modules}
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        pytest.fail(" <- ".join(error.args[1]))


@pytest.mark.parametrize("framework", sorted(FRAMEWORKS))
def test_frameworks_stay_at_their_edge(framework):
    users = IMPORTS.find_modules_that_directly_import(framework)
    assert users and not {user for user in users if not below(user, FRAMEWORKS[framework])}


def test_no_drawers():
    drawers = {"utils", "misc", "helpers", "common", "legacy"}
    assert not [module for module in MODULES if drawers & set(module.split("."))]
