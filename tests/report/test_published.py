from pathlib import Path

import pandas as pd
import pytest

from maftp.config import load_params
from maftp.report import published
from maftp.report.published import comparison, match_recipe, published_rows
from maftp.report.tables import write_table

ROOT = Path(__file__).resolve().parents[2]
SEMANTIC = ["A-847", "A-150", "PC-459", "PC-59", "PAS-20"]


def rows(experiment: str, recipe: str = "", released: str = "") -> pd.DataFrame:
    row = {"experiment": experiment, "variant": "maftp", "seed": 0}
    row |= {name: 30.0 + place for place, name in enumerate(SEMANTIC)}
    row |= dict.fromkeys(("PQ", "SQ", "RQ"))
    row |= {"trainable_parameters": 1, "training_seconds": 60.0}
    row |= {"peak_host_memory_mb": 100.0, "peak_gpu_memory_mb": None}
    row |= {f"{name} (a)": 10.0 + place for place, name in enumerate(SEMANTIC)}
    row |= {"protocol": "b", "steps": 5, "images": 6, "images_of_benchmarks": 7}
    row |= {"recipe": recipe, "deviations": "", "released": released}
    return pd.DataFrame([row, row | {"seed": 1}])


def test_published_numbers_of_the_base_model():
    current, earlier = (row for _, row in published_rows("maftp_base").iterrows())
    assert current[SEMANTIC].tolist() == [13.8, 34.6, 16.2, 57.5, 95.4]
    assert earlier[SEMANTIC].tolist() == [13.2, 33.6, 14.2, 55.9, 93.9]


def test_a_line_has_published_and_measured_in_one_protocol_and_their_difference():
    table = comparison(rows("mine", "maftp_base"))
    assert table.benchmark.tolist() == SEMANTIC  # nothing panoptic was measured or published
    assert set(table.weights) == {"trained here, 2 seeds"}
    first = table.iloc[0]
    assert (first.benchmark, first.protocol) == ("A-847", "mIoU (a)")
    current, earlier = (name for name in table.columns if name.startswith("published"))
    # protocol (a): 10.0, not 30.0; the difference is to the current README
    assert (first[current], first[earlier], first["measured here"]) == (13.8, 13.2, 10.0)
    assert first["difference"] == pytest.approx(-3.8)


def test_released_weights_are_named_as_such(tmp_path):
    released = rows("maftp_base_released", "maftp_base", "maftp_b")[:1]
    write_table(released, tmp_path / "t.csv", tmp_path / "t.md")
    text = (tmp_path / "t.md").read_text()
    (line,) = [
        line for line in text.splitlines() if "released weights maftp_b" in line and "PC-59" in line
    ]
    assert "57.5" in line and "13.0" in line and "-44.5" in line and "mIoU (a)" in line


@pytest.mark.parametrize("recipe", ["", "fcclip_base"])
def test_nothing_is_compared_where_nothing_was_published(recipe, tmp_path):
    assert comparison(rows("maftp_base", recipe)) is None
    write_table(rows("maftp_base", recipe), tmp_path / "t.csv", tmp_path / "t.md")
    assert "Compared with the paper" not in (tmp_path / "t.md").read_text()


def test_the_full_scale_table_shows_both(tmp_path):
    write_table(rows("mine", "maftp_base"), tmp_path / "t.csv", tmp_path / "t.md")
    text = (tmp_path / "t.md").read_text()
    assert "Compared with the paper" in text
    assert "13.8" in text and "measured here" in text


@pytest.mark.parametrize("name", [name for name in published._read()["recipes"] if (
    ROOT / f"workflow/experiments/{name}.yaml").exists()])  # fmt: skip
def test_the_recipes_are_those_of_the_experiments(name):
    params = load_params(ROOT / "params.yaml", ROOT / f"workflow/experiments/{name}.yaml")
    variant = next(iter(params.variants))
    match = match_recipe(params.for_variant(variant).model_dump(mode="json"))
    assert (match.recipe, match.differences) == (name, ())


@pytest.mark.parametrize("weights", sorted(published._read()["released"]))
def test_released_weights_are_scored_as_their_recipe_says(weights):
    """In some variant of some experiment; released semantic and panoptic models share files."""
    recipe = published._read()["released"][weights]
    params = load_params(
        ROOT / "params.yaml", ROOT / f"workflow/experiments/{recipe}_released.yaml"
    )
    variants = [params.for_variant(name) for name in params.variants]
    (first, *_) = [v for v in variants if v.weights == f"weights/released/{weights}.safetensors"]
    values = first.model_dump(mode="json")
    recorded = {k: values[k] for k in ("data", "input", "clip", "model", "evaluate", "weights")}
    assert match_recipe(recorded, released=weights).differences == ()


def test_mask_classification_is_compared_in_its_own_protocol():
    measured = rows("mine", "maskclippp_base", "maskclippp_b")
    table = comparison(measured)
    assert set(table.protocol) == {"mIoU (b)"}
    assert table.iloc[0]["measured here"] == 30.0


def test_an_evaluation_of_released_weights_is_judged_by_what_it_needs():
    params = load_params(
        ROOT / "params.yaml", ROOT / "workflow/experiments/maftp_base_released.yaml"
    )
    values = params.for_variant("maftp").model_dump(mode="json")
    recorded = {
        key: values[key] for key in ("data", "input", "clip", "model", "evaluate", "weights")
    }
    assert match_recipe(recorded, released="maftp_b").differences == ()
    assert match_recipe(recorded).differences
    assert match_recipe(recorded, released="maftp_l").differences
    assert match_recipe(recorded, released="other").differences
    fewer = recorded | {"evaluate": recorded["evaluate"] | {"max_images": 1}}
    assert "max_images: 1" in str(match_recipe(fewer, released="maftp_b"))
