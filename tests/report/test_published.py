from pathlib import Path

import pandas as pd
import pytest

from maftp.config import load_params
from maftp.report.published import MEASURED, comparison, match_recipe, published_rows
from maftp.report.tables import write_table

ROOT = Path(__file__).resolve().parents[2]
SEMANTIC = ["A-847", "A-150", "PC-459", "PC-59", "PAS-20"]


def rows(experiment: str, recipe: str = "") -> pd.DataFrame:
    scores = {name: 30.0 + place for place, name in enumerate(SEMANTIC)}
    union = {f"{name} (a)": 10.0 + place for place, name in enumerate(SEMANTIC)}
    keys = {"experiment": experiment, "variant": "maftp"}
    costs = {"trainable_parameters": 1, "training_seconds": 60.0, "peak_memory_mb": 100.0}
    quality = {
        "PQ": None,
        "SQ": None,
        "RQ": None,
        "protocol": "b",
        "recipe": recipe,
        "deviations": "",
    }
    return pd.DataFrame([keys | {"seed": s} | scores | quality | costs | union for s in (0, 1)])[
        [
            *keys,
            "seed",
            *scores,
            "PQ",
            "SQ",
            "RQ",
            *costs,
            *union,
            "protocol",
            "recipe",
            "deviations",
        ]
    ]


def test_published_numbers_of_the_base_model():
    current, earlier = (row for _, row in published_rows("maftp_base").iterrows())
    assert current[SEMANTIC].tolist() == [13.8, 34.6, 16.2, 57.5, 95.4]
    assert earlier[SEMANTIC].tolist() == [13.2, 33.6, 14.2, 55.9, 93.9]


def test_measured_rows_are_marked_and_in_the_published_protocol():
    table = comparison(rows("mine", "maftp_base"))
    assert list(table.source.str.startswith("published")) == [True, True, False]
    measured = table.iloc[-1]
    assert measured.source == f"{MEASURED}, 2 seed(s)"
    assert measured["A-847"] == 10.0  # protocol (a), not 30.0
    assert "PQ" not in table


@pytest.mark.parametrize("recipe", ["", "fcclip_base"])
def test_nothing_is_compared_where_nothing_was_published(recipe, tmp_path):
    assert comparison(rows("maftp_base", recipe)) is None
    write_table(rows("maftp_base", recipe), tmp_path / "t.csv", tmp_path / "t.md")
    assert "Compared with the paper" not in (tmp_path / "t.md").read_text()


def test_the_full_scale_table_shows_both(tmp_path):
    write_table(rows("mine", "maftp_base"), tmp_path / "t.csv", tmp_path / "t.md")
    text = (tmp_path / "t.md").read_text()
    assert "Compared with the paper" in text
    assert "13.8" in text and MEASURED in text


@pytest.mark.parametrize(
    "name", ["maftp_base", "maftp_large", "maftp_large_panoptic", "fcclip_base"]
)
def test_the_recipes_are_those_of_the_experiments(name):
    params = load_params(ROOT / "params.yaml", ROOT / f"workflow/experiments/{name}.yaml")
    (variant,) = params.variants
    match = match_recipe(params.for_variant(variant).model_dump(mode="json"))
    assert (match.recipe, match.differences) == (name, ())
