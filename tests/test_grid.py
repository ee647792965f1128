"""The ablation grid of params.yaml, and grids with mistakes."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import yaml

from maftp.api import EXPERIMENTS
from maftp.config import load_params, parse_params
from maftp.errors import ParamsError
from maftp.grid import PREFIX, different_keys, expand, get_key

ROOT = Path(__file__).resolve().parents[1]
PARAMS = ROOT / "params.yaml"
GRIDS = ["miniature", "maftp_base", "maftp_large", "maftp_large_panoptic"]


@pytest.fixture(scope="module", params=GRIDS)
def params(request):
    overlays = [] if request.param == "miniature" else [EXPERIMENTS / f"{request.param}.yaml"]
    return load_params(PARAMS, *overlays)


@pytest.fixture(scope="module")
def miniature():
    return load_params(PARAMS)


def values_of(params, run: str) -> dict:
    """The parameters a run of the grid is trained and evaluated with."""
    return params.for_variant(run).model_dump(mode="json", exclude={"weights"})


def dotted(values: dict, prefix: str = "") -> list[str]:
    return [
        name
        for key, value in values.items()
        for name in (
            dotted(value, f"{prefix}{key}.") if isinstance(value, dict) else [prefix + key]
        )
    ]


def test_every_cell_differs_from_its_neighbour_in_the_named_parameter_alone(params):
    for row in params.grid.rows:
        if row.start is None:
            continue
        start, run = values_of(params, row.start), values_of(params, row.run)
        wanted = set() if row.run == row.start else {row.key}
        also = next((p.also for p in params.ablations.parts.values() if p.title == row.title), {})
        changed = set(different_keys(start, run))
        assert wanted <= changed <= wanted | set(dotted(also)), f"{row.title}: {changed}"
        expected = list(row.value) if isinstance(row.value, tuple) else row.value
        assert get_key(run, row.key) == expected


def test_equal_cells_are_one_run(params):
    runs = [values_of(params, run) for run in params.grid.runs]
    for index, values in enumerate(runs):
        assert values not in runs[:index]


def test_cells_that_differ_in_evaluation_only_share_their_weights(params):
    grid = params.grid
    shared = {run: values["weights"] for run, values in grid.runs.items() if values["weights"]}
    source = "results/ablations/{experiment}/ablation-{}/seed{seed}/weights.safetensors"
    frozen, ovr = (source.replace("{}", name) for name in ("frozen", "ovr"))
    of_frozen = ["ensemble-head", "ensemble-clip", *(f"coat-{x}" for x in (0.25, 0.5, 0.75, 1.0))]
    expected = {f"ablation-{name}": frozen for name in of_frozen}
    if "ovr" in params.ablations.parts:
        expected["ablation-ovrcoat"] = ovr
    assert shared == expected


def test_the_grid_holds_the_ablations_of_the_method(miniature):
    rows = {(row.study, row.value): row.run for row in miniature.grid.rows}
    assert {value for study, value in rows if study == "rc_weight"} == {0.0, 0.05, 0.1, 0.2, 1.0}
    assert rows["rc_weight", 0.0] == "ablation-cdt_only"
    assert rows["rc_weight", 0.1] == "ablation-full"
    titles = [row.title for row in miniature.grid.rows if row.study == "rc_scales"]
    assert titles == ["RC scales: 1", "RC scales: 1, 2", "RC scales: 1, 2, 4"]
    studies = {study for study, _ in rows}
    assert studies == {
        "parts", "rc_weight", "rc_scales", "cdt_form", "cdt_heads", "cdt_layers", "cdt_tokens",
        "mask_aware", "templates", "ensemble", "coat", "ovr_softmax", "ovr_scale",
    }  # fmt: skip
    frozen = miniature.for_variant("ablation-frozen")
    assert (frozen.model.name, frozen.model.cdt.enabled, frozen.train.rc_weight) == (
        "fcclip", False, 0.0,
    )  # fmt: skip


def test_the_miniature_grid_is_short_and_the_full_one_has_the_whole_recipe(miniature):
    assert miniature.for_variant("ablation-full").train.iterations == 200
    base = load_params(PARAMS, EXPERIMENTS / "maftp_base.yaml")
    # without overrides the full model is the variant of the table, trained once
    assert base.grid.rows[0].run == "maftp"
    assert base.for_variant(base.grid.rows[1].run).train.iterations == 60000


def test_names_of_runs_are_those_of_folders(miniature):
    for run in miniature.grid.runs:
        assert run.startswith(PREFIX)
        assert set(run) <= set("abcdefghijklmnopqrstuvwxyz0123456789_.-")


def grid_of(**changes) -> dict:
    grid = {"full": "maftp", "overrides": {}, "parts": {}, "sweeps": {}}
    return grid | changes


VARIANTS = {"maftp": {"train": {"rate": 1, "steps": 5}, "evaluate": {"n": 1}, "weights": None}}


def test_overrides_reach_every_cell():
    sweep = {"title": "rate", "start": "full", "key": "train.rate", "values": [1, 2]}
    grid = expand(VARIANTS, grid_of(overrides={"train": {"steps": 2}}, sweeps={"rate": sweep}))
    assert [row.run for row in grid.rows] == ["ablation-full", "ablation-full", "ablation-rate-2"]
    assert grid.runs["ablation-rate-2"]["train"] == {"rate": 2, "steps": 2}


def test_a_cell_with_other_evaluation_uses_the_weights_it_names():
    sweep = {"title": "n", "start": "full", "key": "evaluate.n", "values": [1, 2]}
    grid = expand(VARIANTS, grid_of(sweeps={"n": sweep}))
    assert [row.run for row in grid.rows] == ["maftp", "maftp", "ablation-n-2"]
    weights = grid.runs["ablation-n-2"]["weights"]
    assert weights == "results/{experiment}/maftp/seed{seed}/weights.safetensors"


def test_a_cell_takes_the_weights_of_another_that_it_names():
    also = {"train": {"steps": 9, "proposals": "full"}}
    part = {"title": "x", "start": "full", "key": "train.rate", "value": 2, "also": also}
    full = "results/{experiment}/maftp/seed{seed}/weights.safetensors"
    grid = expand(VARIANTS, grid_of(parts={"x": part}))
    assert grid.runs["ablation-x"]["train"] == {"rate": 2, "steps": 9, "proposals": full}
    grid = expand(VARIANTS, grid_of(parts={"x": part}, overrides={"train": {"steps": 3}}))
    cell = "results/ablations/{experiment}/ablation-full/seed{seed}/weights.safetensors"
    assert grid.runs["ablation-x"]["train"]["proposals"] == cell


def test_the_given_values_are_not_changed():
    before = copy.deepcopy(VARIANTS)
    sweep = {"title": "rate", "start": "full", "key": "train.rate", "values": [3]}
    expand(VARIANTS, grid_of(sweeps={"rate": sweep}))
    assert before == VARIANTS


@pytest.mark.parametrize(
    ("part", "sentence"),
    [
        ({"start": "nothing"}, "ablations.parts.odd.start: there is no cell 'nothing' before it"),
        (
            {"key": "train.rc_wait"},
            "ablations.parts.odd.key: there is no parameter 'train.rc_wait'",
        ),
        ({"value": -1.0}, "train.rc_weight"),
    ],
)
def test_mistakes_end_in_a_sentence(tmp_path, part, sentence):
    odd = {"title": "odd", "start": "full", "key": "train.rc_weight", "value": 0.3} | part
    path = tmp_path / "odd.yaml"
    path.write_text(yaml.safe_dump({"ablations": {"parts": {"odd": odd}, "sweeps": {}}}))
    with pytest.raises(ParamsError, match=sentence.replace(".", r"\.")):
        load_params(PARAMS, path)


def test_parameters_without_a_grid(miniature):
    values = miniature.model_dump(mode="python")
    without = parse_params(values | {"ablations": None}, source="here")
    with pytest.raises(ParamsError, match="have no grid"):
        without.grid  # noqa: B018
    other = parse_params(values | {"variants": {"other": {}}}, source="here")
    with pytest.raises(ParamsError, match="ablations.full: there is no variant 'maftp'"):
        other.grid  # noqa: B018
