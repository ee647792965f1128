"""The target `datasets`: what it plans, that it redoes what was lost alone, and ready folders."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest
import yaml
from rich.filesize import decimal

from maftp.config import load_params
from maftp.data.catalog import load_catalog
from maftp.data.convert.run import convert
from maftp.data.download import fetch
from maftp.data.layout import archives_dir
from maftp.data.unpack import unpack_source
from maftp.needs import needs_of
from tests.data.conftest import on_the_web, write_world
from tests.workflow.conftest import BIN, ROOT, Checkout

pytestmark = pytest.mark.slow

ADE = {"ADEChallengeData2016.zip", "annotations_instance.tar"}
SEMANTIC_BENCHMARKS = ADE | {
    "ADE20K_2021_17_01.zip",
    "VOCtrainval_11-May-2012.tar",
    "VOCtrainval_03-May-2010.tar",
    "trainval.tar.gz",
    "trainval_merged.json",
    "prepare_ade20k_full_sem_seg.py.txt",
    "ade20k_150_with_prompt_eng.txt",
    "ade20k_847_with_prompt_eng.txt",
    "pascal_ctx_59_with_prompt_eng.txt",
    "pascal_ctx_459_with_prompt_eng.txt",
    "pascal_voc_21_with_prompt_eng.txt",
}
COCO_STUFF = {
    "train2017.zip",
    "stuffthingmaps_trainval2017.zip",
    "coco_stuff_with_prompt_eng.txt",
}
PANOPTIC = ADE | {"ade20k_150_with_prompt_eng.txt"}
COCO_PANOPTIC = {
    "train2017.zip",
    "panoptic_annotations_trainval2017.zip",
    "coco_panoptic_with_prompt_eng.txt",
}
SEMANTIC_SETS = {
    *("ade20k_847", "ade20k_150", "pascal_ctx_459", "pascal_ctx_59", "pascal_voc_20"),
    *("ade20k_panoptic", "ade20k_instance"),
}
PANOPTIC_SETS = {"ade20k_panoptic", "ade20k_instance"}
OFFICIAL = {
    "maftp_base": (SEMANTIC_BENCHMARKS | COCO_STUFF, SEMANTIC_SETS | {"coco_stuff"}),
    "maftp_large": (SEMANTIC_BENCHMARKS | COCO_STUFF, SEMANTIC_SETS | {"coco_stuff"}),
    "fcclip_base": (SEMANTIC_BENCHMARKS | COCO_STUFF, SEMANTIC_SETS | {"coco_stuff"}),
    "fcclip_large": (SEMANTIC_BENCHMARKS | COCO_STUFF, SEMANTIC_SETS | {"coco_stuff"}),
    "maftp_large_panoptic": (PANOPTIC | COCO_PANOPTIC, PANOPTIC_SETS | {"coco_panoptic"}),
    "maftp_base_released": (SEMANTIC_BENCHMARKS, SEMANTIC_SETS),
    "maftp_large_released": (SEMANTIC_BENCHMARKS, SEMANTIC_SETS),
    "maftp_large_panoptic_released": (PANOPTIC, PANOPTIC_SETS),
}


ALIKE = {
    "ovrcoat_large_panoptic": "maftp_large_panoptic",
    "ovrcoat_large_panoptic_released": "maftp_large_panoptic_released",
    "maskclippp_base": "maftp_base",
    "maskclippp_base_released": "maftp_base_released",
    "maskclippp_eva_large": "maftp_base",
    "maskclippp_eva_large_released": "maftp_base_released",
    "maskadapter_maftp_base": "maftp_base",
    "maskadapter_maftp_base_released": "maftp_base_released",
    "maskadapter_maftp_large": "maftp_base",
    "maskadapter_maftp_large_released": "maftp_base_released",
    "fcclip_large_panoptic_released": None,
    "maskclippp_base_panoptic": None,
    "maskclippp_base_panoptic_released": None,
    "maskclippp_large_panoptic": None,
    "maskclippp_large_panoptic_released": None,
    "maskadapter_fcclip_large": None,
    "maskadapter_fcclip_large_released": None,
}
"""Experiments that need the data of another; None: panoptic ones that have semantic scores too."""


def plan(checkout: Checkout, target: str, params: str) -> dict[str, list[str]]:
    """Return what a dry run would do: the objects of its messages by their first word."""
    done = checkout.snakemake("-n", target, params=[params])
    found: dict[str, list[str]] = {}
    for verb, rest in re.findall(r"^Job \d+: (\w+) (.+)$", done.stdout + done.stderr, re.M):
        found.setdefault(verb, []).append(rest)
    found.pop("All", None)  # the target itself
    return found


def test_every_official_experiment_is_listed_here():
    files = (ROOT / "workflow/experiments").glob("*.yaml")
    params = [load_params(ROOT / "params.yaml", file) for file in files]
    listed = {p.experiment for p in params if p.data.catalog is None}
    assert listed == set(OFFICIAL) | set(ALIKE)


@pytest.mark.parametrize(("experiment", "other"), ALIKE.items())
def test_other_methods_need_the_same_data(experiment, other):
    catalog = load_catalog()
    found, known = (
        needs_of(load_params(ROOT / "params.yaml", *file), catalog)
        for file in (
            [ROOT / f"workflow/experiments/{name}.yaml"] if name else []
            for name in (experiment, other or "maftp_large_panoptic")
        )
    )
    if other is None:
        assert set(found.datasets) >= set(known.datasets) - {"coco_panoptic"}
        assert "ade20k_150" in found.datasets
    else:
        assert (found.datasets, found.sources) == (known.datasets, known.sources)


def test_weights_of_other_runs_are_inputs_of_a_training(checkout):
    """Proposals are fetched and checked by the model they are of; phase two waits for phase one."""
    file = "workflow/experiments/maskadapter_maftp_base.yaml"
    planned = plan(checkout, "results/table.csv", file)
    assert planned["Check"] == ["and keep the released weights maftp_b"]
    assert sorted(planned["Train"]) == ["mask_adapter, seed 123", "warmup, seed 123"]
    file = "workflow/experiments/maskclippp_base_released.yaml"
    planned = plan(checkout, "results/table.csv", file)
    kept = [f"and keep the released weights {name}" for name in ("maftp_b", "maskclippp_b")]
    assert sorted(planned["Check"]) == kept
    assert "Train" not in planned and len(planned["Evaluate"]) == 10


@pytest.mark.parametrize("experiment", sorted(OFFICIAL))
def test_official_archives_and_conversions(experiment, checkout, monkeypatch):
    monkeypatch.delenv("DETECTRON2_DATASETS", raising=False)
    archives, datasets = OFFICIAL[experiment]
    planned = plan(checkout, "datasets", f"workflow/experiments/{experiment}.yaml")
    assert sorted(planned["Download"]) == sorted(archives)
    assert sorted(planned["Convert"]) == sorted(datasets)
    assert len(planned["Unpack"]) == len(archives)
    assert not {"Train", "Evaluate", "Fetch"} & set(planned)


@pytest.mark.parametrize(
    ("experiment", "weights"),
    [
        ("maftp_base_released", "maftp_b"),
        ("maftp_large_panoptic_released", "maftp_l_pano"),
    ],
)
def test_released_weights_are_fetched_checked_and_evaluated(experiment, weights, checkout):
    planned = plan(checkout, "results/table.csv", f"workflow/experiments/{experiment}.yaml")
    assert f"{weights}.pth" in planned["Download"]
    assert planned["Check"] == [f"and keep the released weights {weights}"]
    benchmarks = ["ADE-panoptic"] if "panoptic" in experiment else None
    scored = [line.rsplit(" ", 1)[1] for line in planned["Evaluate"]]
    expected = benchmarks or ["A-150", "A-847", "PAS-20", "PC-459", "PC-59"]
    assert sorted(scored) == expected
    assert "Train" not in planned


@pytest.fixture
def tiny(checkout, request) -> Checkout:
    """A checkout whose experiment `tiny.yaml` reads archives of a few small images."""
    overlay = write_world(checkout.path / "served")
    experiment = {
        "experiment": "tiny",
        "benchmarks": request.param,
        "data": {"root": None, "catalog": str(overlay), "world": None},
        "ablations": None,
        "variants": {"maftp": {"weights": "none.safetensors"}},
    }
    (checkout.path / "tiny.yaml").write_text(yaml.safe_dump(experiment))
    return checkout


def times(root: Path) -> dict[Path, int]:
    files = [path for path in root.rglob("*") if path.suffix in (".png", ".jpg", ".tif")]
    return {path.relative_to(root): path.stat().st_mtime_ns for path in files}


def assert_nothing_to_do(checkout: Checkout, *params: str) -> None:
    done = checkout.snakemake("-n", "datasets", params=params or ["tiny.yaml"])
    assert "Nothing to be done" in done.stdout + done.stderr


@pytest.mark.parametrize("tiny", [["PAS-20"]], indirect=True, ids=["PAS-20"])
def test_a_lost_file_alone_is_made_again(tiny, tmp_path, monkeypatch):
    root = tmp_path / "data"
    monkeypatch.setenv("DETECTRON2_DATASETS", str(root))
    tiny.snakemake("datasets", params=["tiny.yaml"])
    assert_nothing_to_do(tiny)
    before = times(root)
    lost = Path("VOCdevkit/VOC2012/annotations_ovs/val/2008_000001.png")
    content = (root / lost).read_bytes()
    (root / lost).unlink()
    assert plan(tiny, "datasets", "tiny.yaml") == {"Convert": ["pascal_voc_20"]}
    tiny.snakemake("datasets", params=["tiny.yaml"])
    assert (root / lost).read_bytes() == content
    after = times(root)
    assert {path for path in after if after[path] != before[path]} == {lost}
    assert_nothing_to_do(tiny)


@pytest.mark.parametrize("tiny", [["PAS-20", "A-150"]], indirect=True, ids=["both"])
def test_a_prepared_folder_is_used_as_it_is(tiny, tmp_path, monkeypatch):
    """Images and converted labels only, as another project left them: no archive, no raw label."""
    root, catalog = tmp_path / "prepared", load_catalog(tiny.path / "served/sources.yaml")
    for name in ("ade20k_150", "ade20k_panoptic", "ade20k_instance", "pascal_voc_20"):
        for source in catalog.datasets[name].sources:
            fetch(catalog.sources[source], archives_dir(root))
            unpack_source(source, catalog, root)
        convert(name, catalog, root, workers=1)
    for folder in (
        *("archives", "manifests", "vocabularies"),
        *("VOCdevkit/VOC2012/JPEGImages", "VOCdevkit/VOC2012/SegmentationClass"),
        *("VOCdevkit/VOC2012/ImageSets", "ade/ADEChallengeData2016/annotations"),
        "ade/ADEChallengeData2016/annotations_instance",
    ):
        shutil.rmtree(root / folder)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(root))
    before = times(root)
    planned = plan(tiny, "datasets", "tiny.yaml")
    names = ["ade20k_150_with_prompt_eng.txt", "pascal_voc_21_with_prompt_eng.txt"]
    # coco_stuff's names tell which classes were seen in training, but are not asked for here
    assert sorted(planned["Download"]) == names  # class names, a few kB; no archive
    tiny.snakemake("datasets", params=["tiny.yaml"])
    assert times(root) == before
    assert not list((root / "archives").glob("*.zip")) + list((root / "archives").glob("*.tar"))
    assert_nothing_to_do(tiny)


@pytest.mark.parametrize("tiny", [["PAS-20"]], indirect=True, ids=["PAS-20"])
def test_no_change_removes_an_archive_that_the_user_brought(tiny, tmp_path, monkeypatch):
    root, overlay = tmp_path / "data", tiny.path / "served/sources.yaml"
    monkeypatch.setenv("DETECTRON2_DATASETS", str(root))
    brought = {}
    for served in (tiny.path / "served").glob("VOC*"):
        own = root / "archives" / served.name
        own.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(served, own)
        brought[own] = (own.stat().st_ino, own.read_bytes())
    weights = root / "archives" / "maftp_l_pano.pth"
    weights.write_bytes(b"weights of my own")
    brought[weights] = (weights.stat().st_ino, weights.read_bytes())
    tiny.snakemake("datasets", params=["tiny.yaml"])
    text = overlay.read_text()
    files = ["tiny.yaml"]
    for change in ("newer", "another mirror", "another digest", "another root", "no overlay"):
        if change == "newer":
            overlay.write_text("# newer\n" + text)
        elif change == "another mirror":
            values = yaml.safe_load(text)
            for source in values["sources"].values():
                source["mirrors"] = ["http://127.0.0.1:9/nothing"]
            overlay.write_text(yaml.safe_dump(values))
        elif change == "another digest":
            values = yaml.safe_load(text)
            values["sources"]["voc2012"]["sha256"] = "0" * 64
            overlay.write_text(yaml.safe_dump(values))
        elif change == "another root":
            (tiny.path / "moved.yaml").write_text(f"data: {{root: {tmp_path / 'elsewhere'}}}")
            files = ["tiny.yaml", "moved.yaml"]
        else:
            (tiny.path / "official.yaml").write_text("data: {catalog: null}")
            files = ["tiny.yaml", "official.yaml"]
        if change in ("newer", "another mirror"):
            assert_nothing_to_do(tiny)
        tiny.snakemake("datasets", params=files, ok=False)
        for path, (inode, content) in brought.items():
            assert path.exists() and path.stat().st_ino == inode, change
            assert path.read_bytes() == content, change


@pytest.mark.parametrize("tiny", [["PAS-20", "A-150"]], indirect=True, ids=["both"])
def test_downloaded_archives_go_once_they_are_converted(tiny, tmp_path, monkeypatch):
    root, served = tmp_path / "data", tiny.path / "served"
    monkeypatch.setenv("DETECTRON2_DATASETS", str(root))
    (tiny.path / "spare.yaml").write_text("data: {keep_archives: false}")
    spare = ["tiny.yaml", "spare.yaml"]
    brought = root / "archives/ADEChallengeData2016.zip"
    brought.parent.mkdir(parents=True)
    shutil.copy(served / brought.name, brought)
    gone = [served / name for name in ("VOCtrainval_11-May-2012.tar", "annotations_instance.tar")]
    freed = decimal(sum(archive.stat().st_size for archive in gone))
    with on_the_web(served / "sources.yaml"):
        done = tiny.snakemake("datasets", params=spare)
    said = re.findall("removed .*", done.stdout + done.stderr)
    assert said == [f"removed 2 archives after conversion: {freed} freed"]
    assert not any(brought.with_name(archive.name).exists() for archive in gone)
    assert brought.exists()
    assert_nothing_to_do(tiny, *spare)
    assert_nothing_to_do(tiny)
    words = ["--params", "params.yaml", *spare]
    status = tiny.maftp("data", "status", "pascal_voc_20", *words).stdout
    assert "archive removed: voc2012" in status
    assert "pascal_voc_20: sound" in tiny.maftp("data", "verify", *words).stdout
    raw = root / "VOCdevkit/VOC2012/SegmentationClass/2008_000001.png"
    raw.unlink()
    with on_the_web(served / "sources.yaml"):
        tiny.maftp("unpack", "voc2012", *words)  # brings the archive again
    again = brought.with_name(gone[0].name)
    assert raw.exists() and again.exists()
    again.unlink()
    assert_nothing_to_do(tiny, *spare)
    before = times(root)
    write_world(served, seed=1)  # new versions; the instance maps are the same
    with on_the_web(served / "sources.yaml"):
        brought.unlink()
        planned = plan(tiny, "datasets", "tiny.yaml")
        assert {gone[0].name, brought.name} <= set(planned["Download"])
        assert gone[1].name not in planned["Download"]
        done = tiny.snakemake("datasets", params=spare)
        assert "removed 2 archives after conversion" in done.stdout + done.stderr
    label = Path("VOCdevkit/VOC2012/annotations_ovs/val/2008_000001.png")
    assert times(root)[label] != before[label]
    assert_nothing_to_do(tiny, *spare)


def test_the_command_that_hands_over_a_registered_archive_works_as_written(checkout, monkeypatch):
    monkeypatch.delenv("DETECTRON2_DATASETS", raising=False)
    experiment = "workflow/experiments/maftp_base.yaml"
    archive = checkout.path / "datasets/archives/ADE20K_2021_17_01.zip"
    done = checkout.snakemake("-n", "datasets", params=[experiment])
    (command,) = re.findall("`(DETECTRON2_DATASETS=.+?)`", done.stdout + done.stderr)
    assert f"--from {archive} --params params.yaml {experiment}" in command
    archive.parent.mkdir(parents=True, exist_ok=True)
    archive.write_bytes(b"what the registered user was given")
    monkeypatch.setenv("PATH", f"{BIN}:{os.environ['PATH']}")
    checkout.run("bash", "-c", command)
    assert archive.with_name("ade20k_full.obtained.json").exists()
    done = checkout.snakemake("-n", "datasets", params=[experiment])
    assert "registration" not in done.stdout + done.stderr
    assert archive.name not in plan(checkout, "datasets", experiment)["Download"]
