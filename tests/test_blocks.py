"""Parameters explain themselves: in the schema that editors read, and in params.yaml."""

from __future__ import annotations

import re
from pathlib import Path

import jsonschema
import pytest
import yaml

from maftp.cli import main
from maftp.config import json_schema

ROOT = Path(__file__).resolve().parent.parent
SCHEMA = json_schema()
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
FILES = [ROOT / "params.yaml", *sorted((ROOT / "workflow" / "experiments").glob("*.yaml"))]


def block(entry: dict) -> dict:
    """Return the block that a key holds, `null` being another choice; {} for a plain value."""
    for choice in (entry, *entry.get("anyOf", [])):
        if "$ref" in choice and choice["$ref"] != "#":
            return SCHEMA["$defs"][choice["$ref"].rpartition("/")[2]]
    return {}


def description(entry: dict) -> str:
    text = entry.get("description") or block(entry).get("description", "")
    return " ".join(text.split())


def keys(inner: dict = SCHEMA, prefix: str = "") -> dict[str, dict]:
    """Return the entry of every dotted key."""
    found = {}
    for name, entry in inner["properties"].items():
        found[prefix + name] = entry
        if block(entry):
            found |= keys(block(entry), f"{prefix}{name}.")
    return found


def test_the_file_is_what_the_command_prints(capsys):
    assert main(["params", "--schema"]) == 0
    printed = capsys.readouterr().out
    stored = (ROOT / "params.schema.json").read_text()
    assert stored == printed, "renew it: maftp params --schema > params.schema.json"


def test_the_schema_is_one():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    optional = {"data.world.seed", "train.validation.images", "evaluate.augmentation.flip"}
    assert optional | {"ablations.full", "execution.workers"} <= set(keys())


@pytest.mark.parametrize("key", keys())
def test_every_key_says_its_type_and_meaning(key):
    entry = keys()[key]
    assert {"type", "anyOf", "$ref", "enum"} & set(entry)
    words = set(re.findall(r"[a-z]+", description(entry).lower()))
    assert len(words - set(re.findall("[a-z]+", key))) > 1, description(entry)


def test_optional_keys_say_their_default():
    assert keys()["train.validation"]["default"] is None
    assert keys()["resources.train"]["default"] == {"memory_mb": 8000, "minutes": 720}
    assert "default" not in keys()["train.iterations"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_parameter_file_fits_and_names_the_schema(file):
    first = file.read_text().splitlines()[0]
    named = re.fullmatch(r"# yaml-language-server: \$schema=(.*)", first)[1]
    assert (file.parent / named).resolve() == ROOT / "params.schema.json"
    VALIDATOR.validate(yaml.safe_load(file.read_text()))


@pytest.mark.parametrize(
    "text",
    [
        "train: {iteratons: 5}",
        "train: {iterations: many}",
        "seeds: []",
        "data: {world: {seed: -1}}",
        "variants: {m: {train: {rc_wait: 1}}}",
        "ablations: {overrides: {train: {iterations: 0}}}",
        "ablations: {parts: {p: {title: <b>}}}",
    ],
)
def test_the_schema_refuses_mistakes(text):
    assert not VALIDATOR.is_valid(yaml.safe_load(text))


def commented(node: yaml.MappingNode, lines: list[str], prefix: str = "") -> dict[str, str]:
    """Return the comment right above every key, by its dotted name."""
    found = {}
    for key, value in node.value:
        name = prefix + key.value
        start = end = key.start_mark.line
        while lines[start - 1].lstrip().startswith("#"):
            start -= 1
        found[name] = " ".join(line.strip(" #") for line in lines[start:end])
        if isinstance(value, yaml.MappingNode):
            found |= commented(value, lines, f"{name}.")
    return found


def test_comments_of_the_parameter_file_are_the_descriptions():
    text = (ROOT / "params.yaml").read_text()
    comments = commented(yaml.compose(text), text.splitlines())
    described = {key: description(entry) for key, entry in keys().items() if key in comments}
    assert len(described) > 80
    assert {key: comments[key] for key in described} == described
