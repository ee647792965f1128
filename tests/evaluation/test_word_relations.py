"""What one class name is to another, and that the table holds names that vocabularies have."""

from importlib import resources
from pathlib import Path

import pytest
import yaml

from maftp.data.vocabulary import split_synonyms
from maftp.evaluation.word_relations import WordRelations

VOCABULARIES = Path(__file__).resolve().parents[3] / "shared/samples/vocabularies"
SMALL = WordRelations(
    same=[["sofa", "couch"]],
    kinds={"seat": ["chair", "sofa"], "furniture": ["seat"]},
    not_kinds=["hot dog"],
)


@pytest.mark.parametrize(
    ("truth", "predicted", "relation"),
    [
        ("sofa", "couch,settee", "same meaning"),
        ("cat, kitty", "kitty", "same meaning"),
        ("couch", "seat", "more general"),  # by way of sofa
        ("couch", "furniture", "more general"),  # by way of sofa and seat
        ("furniture", "couch", "more specific"),
        ("swivel chair", "Chair", "more general"),
        ("swivel chair", "furniture", "more general"),
        ("car", "striped red car", "more specific"),
        ("striped red car", "spotted red car", "same kind"),
        ("chair", "sofa", "same kind"),
        ("hot dog", "dog", "unrelated"),
        ("sky", "sofa", "unrelated"),
    ],
)
def test_relations(truth, predicted, relation):
    assert SMALL.between(truth, predicted) == relation


def test_the_relations_of_the_package():
    relations = WordRelations.read()
    assert relations.between("sofa", "couch,couches") == "same meaning"
    assert relations.between("man", "person,people") == "more general"
    assert relations.between("dog", "cat") == "same kind"
    assert relations.between("teddy bear", "bear") == "unrelated"


@pytest.mark.skipif(not VOCABULARIES.exists(), reason="the vocabularies of the benchmarks")
def test_every_word_of_the_table_is_a_name_of_a_vocabulary():
    known = {
        name.strip()
        for file in VOCABULARIES.glob("*.txt")
        for line in file.read_text().splitlines()
        for name in split_synonyms(line.partition(":")[2])
    }
    path = resources.files("maftp.evaluation").joinpath("word_relations.yaml")
    table = yaml.safe_load(path.read_text())
    rows = [*table["same"], table["not_kinds"], [*table["kinds"]], *table["kinds"].values()]
    words = {word for row in rows for word in row}
    assert words - known == set()
