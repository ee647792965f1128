"""Parameter files: layered, typed, and refused with the file and the key when wrong."""

import re
from pathlib import Path

import pytest
import yaml

from maftp.config import load_params, parse_params, recorded_params
from maftp.errors import ParamsError

ROOT = Path(__file__).resolve().parent.parent
DEFAULT = ROOT / "params.yaml"
EXPERIMENTS = sorted((ROOT / "workflow" / "experiments").glob("*.yaml"))
RELEASED = [file for file in EXPERIMENTS if file.stem.endswith("_released")]
TRAINED = [file for file in EXPERIMENTS if file not in RELEASED]
MAFTP = [file for file in EXPERIMENTS if re.match("maftp|fcclip_(base|large)$", file.stem)]
"""Those under the recipe of MAFT+."""


def overlay(tmp_path, text: str) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("file", EXPERIMENTS, ids=lambda file: file.stem)
def test_every_experiment_is_valid_and_named_after_its_file(file):
    params = load_params(DEFAULT, file)
    assert params.experiment == file.stem
    assert not params.execution.evaluate_together  # which is for small benchmarks


LOSSES_OF_THE_PAPER = {
    "class_weight": 2.0,
    "mask_weight": 5.0,
    "dice_weight": 5.0,
    "no_object_weight": 0.1,
    "oversample_ratio": 3.0,
    "importance_sample_ratio": 0.75,
    "rc_scales": (1, 2, 4),
    "clip_gradients": 0.01,
    "backbone_multiplier": 0.1,
    "learning_rate": 1e-4,
}


@pytest.mark.parametrize("file", [f for f in MAFTP if f in TRAINED], ids=lambda file: file.stem)
def test_official_experiments_weigh_losses_as_the_paper_does(file):
    """What the miniature world weighs otherwise must not reach them."""
    params = load_params(DEFAULT, file)
    for variant in params.variants:
        recipe = params.for_variant(variant)
        expected = {**LOSSES_OF_THE_PAPER, "mask_aware_weight": 1.0, "rc_weight": 0.1}
        if recipe.model.name == "fcclip":
            expected |= {"mask_aware_weight": 0.0, "rc_weight": 0.0}
        found = {key: getattr(recipe.train, key) for key in expected}
        assert {**found, "rc_scales": tuple(found["rc_scales"])} == expected


def test_an_overlay_changes_its_keys_only(tmp_path):
    before = load_params(DEFAULT)
    after = load_params(DEFAULT, overlay(tmp_path, "train: {rc_weight: 0.2}"))
    assert after.train.rc_weight == 0.2
    assert after.model_copy(update={"train": before.train}) == before


def test_variants_override_the_rest(tmp_path):
    params = load_params(DEFAULT).for_variant("fcclip")
    assert params.model.name == "fcclip"
    assert params.model.num_queries == load_params(DEFAULT).model.num_queries


@pytest.mark.parametrize(
    ("text", "baseline"),
    [
        ("seeds: [0]", "fcclip"),
        ("baseline: maftp", "maftp"),
        ("{variants: {before: {}, after: {}}, baseline: before, ablations: null}", "before"),
        ("{variants: {before: {}, after: {}}, ablations: null}", None),
    ],
)
def test_the_baseline_is_named_or_fcclip(tmp_path, text, baseline):
    params = load_params(DEFAULT, overlay(tmp_path, text))
    assert params.compared_with == baseline
    assert all(params.for_variant(name).baseline is None for name in params.variants)


def sweep(key: str, values: str) -> str:
    """A grid with a single sweep."""
    return (
        "ablations: {parts: {}, sweeps: "
        f"{{s: {{title: t, start: full, key: {key}, values: {values}}}}}}}"
    )


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("train: {iteratons: 5}", "'train.iteratons' is not known"),
        ("train: {iterations: many}", "'train.iterations' is 'many'"),
        ("train: {iterations: 0}", "'train.iterations' is 0"),
        ("{train: {batch_size: 3}, execution: {workers: 2}}", "train.batch_size: must be"),
        ("execution: {workers: 2, micro_batch_size: 3}", "must divide the 4 images"),
        ("{execution: {workers: 1}, resources: {nodes: 2}}", "a multiple of resources"),
        ("model: {hidden_dim: 48}", "model.hidden_dim: must be a multiple of 32"),
        ("variants: {maftp: {train: {rc_wait: 1}}}", "variants.maftp: key 'train.rc_wait'"),
        (
            "baseline: clip",
            "baseline: 'clip' is not a variant; known: maftp, fcclip, fcclip_shuffled",
        ),
        (
            "variants: {maftp: {baseline: maftp}}",
            "variants.maftp: a variant cannot change baseline",
        ),
        ("variants: {maftp: {seeds: [1]}}", "variants.maftp: a variant cannot change seeds"),
        ("variants: {m: {data: {root: x}}}", "variants.m: a variant cannot change data.root"),
        ("variants: {m: {train: {validation: null}}}", "cannot change train.validation"),
        (sweep("data.root", "[a, b]"), "ablations.sweeps.s.key: a variant cannot change data"),
        (sweep("weights", "[a, b]"), "ablations.sweeps.s.key: a variant cannot change weights"),
        (sweep("execution.workers", "[]"), "'ablations.sweeps.s.values' is []"),
        (sweep("clip.pretrained", "[a/b, a_b]"), "two values are called 's-a_b'"),
        ("ablations: {overrides: {data: {root: x}}}", "ablations.overrides: a variant cannot"),
        ("ablations: {sweeps: {s: {title: '=1+1'}}}", "s.title' is '=1+1'"),
        ("ablations: {sweeps: {s: {title: '<script>'}}}", "s.title' is '<script>'"),
        ("ablations: {sweeps: {s: {title: 'a | b'}}}", "s.title' is 'a | b'"),
        ("seeds: []", "'seeds' is []"),
        ("seeds: [-1]", "'seeds.0' is -1"),
        ("seeds: [0, 0]", "'seeds' is [0, 0]: two values are equal"),
        ("benchmarks: []", "'benchmarks' is []"),
        ("train: {rc_scales: []}", "'train.rc_scales' is []"),
        ("train: {learning_rate: .inf}", "'train.learning_rate' is inf"),
        ("train: {learning_rate: .nan}", "'train.learning_rate' is nan"),
        ("train: {clip_gradients: 0}", "'train.clip_gradients' is 0"),
        (f"train: {{iterations: {10**30}}}", "'train.iterations' is 1000"),
        ("input: {pixel_std: [0, 0, 0]}", "'input.pixel_std.0' is 0"),
        ("input: {train: {scale_range: [2.0, 0.5]}}", "first value is larger than the second"),
        ('data: {root: ""}', "'data.root' is ''"),
        ('data: {root: "a\\0b"}', "'data.root' is 'a"),
        ('data: {root: "{variant}"}', "'data.root' is '{variant}'"),
        (
            "train: {start: 'a{variant}.pt'}",
            "'train.start' is 'a{variant}.pt': only {experiment} and",
        ),
        ("train: {student: '{0}'}", "'train.student' is '{0}': only {experiment} and {seed} are"),
        ("variants: {m: {weights: 'a}'}}", "key 'weights' is 'a}': only {experiment} and {seed}"),
        ("train: {workers: 2}", "'train.workers' is called 'execution.workers' now"),
        ("experiment: a b", "A-Za-z0-9"),
        ("experiment: ../elsewhere", "'experiment' is '../elsewhere'"),
        ("train: [", "not readable as YAML"),
        ("just words", "expected keys and values"),
    ],
)
def test_mistakes_name_the_key(tmp_path, text, sentence):
    with pytest.raises(ParamsError, match=re.escape(sentence)) as error:
        load_params(DEFAULT, overlay(tmp_path, text))
    assert "\n" not in str(error.value)


def test_a_missing_key_is_named(tmp_path):
    values = yaml.safe_load(DEFAULT.read_text())
    del values["train"]["learning_rate"]
    path = overlay(tmp_path, yaml.safe_dump(values))
    with pytest.raises(ParamsError, match="'train.learning_rate' is missing"):
        load_params(path)


def test_a_missing_file_is_named():
    with pytest.raises(ParamsError, match="nowhere.yaml: no such parameter file"):
        load_params("nowhere.yaml")


def test_an_unknown_variant_lists_the_known_ones():
    with pytest.raises(ParamsError, match="known: maftp, fcclip"):
        load_params(DEFAULT).for_variant("mft")


PAIRS = [file for file in TRAINED if file.with_stem(f"{file.stem}_released") in RELEASED]


@pytest.mark.parametrize("file", PAIRS, ids=lambda file: file.stem)
def test_released_weights_are_evaluated_as_their_experiment_is(file):
    trained = load_params(DEFAULT, file)
    released = load_params(DEFAULT, file.with_stem(f"{file.stem}_released"))
    for block in ("benchmarks", "model", "evaluate"):
        assert getattr(released, block) == getattr(trained, block)
    assert released.clip.model == trained.clip.model
    assert released.input.test == trained.input.test
    assert released.data.train == trained.data.train
    for variant in released.variants:
        recipe = released.for_variant(variant)
        assert recipe.weights.startswith("weights/released/")
        if recipe.model.name != "maskclippp":  # whose released file holds no text tower
            assert recipe.clip.pretrained == recipe.weights


@pytest.mark.parametrize("file", [f for f in MAFTP if f in TRAINED], ids=lambda file: file.stem)
def test_the_recipe_is_the_published_one(file):
    train = load_params(DEFAULT, file).train
    assert (train.learning_rate, train.backbone_multiplier) == (1e-4, 0.1)
    assert (train.weight_decay, train.power, train.clip_gradients) == (2e-5, 0.9, 0.01)
    assert (train.class_weight, train.mask_weight, train.dice_weight) == (2, 5, 5)
    assert (train.no_object_weight, train.num_points, train.batch_size) == (0.1, 12544, 8)
    assert (train.mask_aware_weight, train.rc_weight, train.rc_scales) == (1, 0.1, (1, 2, 4))


@pytest.mark.parametrize("file", MAFTP, ids=lambda file: file.stem)
def test_the_architecture_is_the_published_one(file):
    model = load_params(DEFAULT, file).model
    assert (model.num_queries, model.hidden_dim, model.num_heads, model.num_points) == (
        100,
        256,
        8,
        4,
    )
    assert (model.encoder_layers, model.encoder_feedforward) == (6, 1024)
    assert (model.decoder_layers, model.decoder_feedforward) == (9, 2048)
    assert model.cdt.num_heads == 8 and model.cdt.tokens == "released"
    assert (model.ensemble_alpha, model.ensemble_beta) == (0.4, 0.8)


KEYS = [
    *("seeds", "benchmarks", "data.root", "data.world.seed", "input.pixel_std", "clip.pretrained"),
    *("input.train.scale_range", "input.test.short_side", "model.hidden_dim", "train.iterations"),
    *("train.learning_rate", "train.rc_scales", "execution.workers", "evaluate.max_images"),
    *("resources.train.memory_mb", "variants", "ablations.parts", "tracking.uri", "weights"),
]
BAD = [-1, 10**30, float("inf"), float("nan"), [[]], [None], {"a": {"b": 1}}, "a\0b", True]


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("value", BAD, ids=repr)
def test_values_of_another_kind_end_in_one_sentence(tmp_path, key, value):
    nested = value
    for part in reversed(key.split(".")):
        nested = {part: nested}
    path = overlay(tmp_path, yaml.safe_dump(nested))
    with pytest.raises(ParamsError) as error:
        load_params(DEFAULT, path)
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


def test_runs_of_a_sweep_over_paths_have_names_of_folders(tmp_path):
    path = overlay(tmp_path, sweep("clip.pretrained", "[../../x.safetensors, /etc/y.safetensors]"))
    runs = load_params(DEFAULT, path).grid.runs
    assert list(runs)[1:] == ["ablation-s-x.safetensors", "ablation-s-etc_y.safetensors"]


WRONG = [
    *(None, True, False, -1, 0, 10**30, 1.5, -0.5, 1e300, float("inf"), float("nan")),
    *("", "text", "a\0b", "../../x", "{seed}", [], [[]], {}, {"a": {"b": 1}}),
]
"""One of them fits a key now and then: false is a value of a flag, 0 of a seed."""


def leaves(values: dict, prefix: str = "") -> list[str]:
    found = []
    for key, value in values.items():
        found.append(f"{prefix}{key}")
        if isinstance(value, dict):
            found += leaves(value, f"{prefix}{key}.")
    return found


@pytest.mark.slow
def test_every_key_with_every_wrong_value_ends_in_a_sentence_or_is_taken(tmp_path, capsys):
    """All keys of params.yaml and of the blocks that it leaves out."""
    whole = yaml.safe_load(DEFAULT.read_text())
    whole["train"]["validation"] = {"benchmark": "A-150", "period": 1, "images": 2}
    whole["evaluate"]["augmentation"] = {"short_sides": [64], "max_side": 99, "flip": True}
    grid = whole["ablations"]  # of few cells, which take less time
    grid["parts"] = {name: grid["parts"][name] for name in ("cdt_only", "finetuned", "frozen")}
    grid["sweeps"] = {"rc_weight": grid["sweeps"]["rc_weight"]}
    keys = [key for key in leaves(whole) if not key.startswith(("variants.", "ablations.s"))]
    base = overlay(tmp_path, yaml.safe_dump(whole))
    taken: list[tuple[str, object]] = []
    refused = 0
    for key in keys:
        for value in WRONG:
            nested = value
            for part in reversed(key.split(".")):
                nested = {part: nested}
            path = tmp_path / "wrong.yaml"
            path.write_text(yaml.safe_dump(nested))
            try:
                load_params(base, path)
                taken.append((key, value))
            except ParamsError as error:
                assert "\n" not in str(error) and len(str(error)) < 600
                refused += 1
    with capsys.disabled():
        print(f"\nparameters: {len(keys)} keys x {len(WRONG)} values, {refused} refused, "
              f"{len(taken)} fit")  # fmt: skip
    odd = [(key, value) for key, value in taken if isinstance(value, float) and value > 1e6]
    assert not odd
    assert not [key for key, value in taken if isinstance(value, str) and "\0" in value]


def test_what_an_earlier_version_recorded_is_read():
    values = load_params(DEFAULT).for_variant("maftp").model_dump(mode="json")
    now = values.pop("execution")
    old = {"data": {"workers": now["loader_workers"]}, "train": {}}
    old["train"] |= {"images_per_pass": 4, "recompute_trunk": True}
    old["train"] |= {key: now[key] for key in ("workers", "gpus_per_worker", "cpus_per_worker")}
    old["train"] |= {key: now[key] for key in ("checkpoint_period", "checkpoints_kept")}
    old["train"] |= {"log_period": 7, "checkpoint_minutes": None}
    for block, keys in old.items():
        values[block] |= keys
    params = recorded_params(values, source="manifest.json")
    assert (params.execution.micro_batch_size, params.execution.log_period) == (4, 7)
    assert params.execution.gradient_checkpointing
    with pytest.raises(ParamsError, match="is called 'execution"):
        parse_params(values, source="manifest.json")


def test_a_mistyped_key_is_named_as_it_was_typed():
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    values["train"]["rc_wieght"] = values["train"].pop("rc_weight")
    with pytest.raises(ParamsError, match=r"'train\.rc_wieght' is not known; .*mend its spelling"):
        parse_params(values, source="params.yaml")
