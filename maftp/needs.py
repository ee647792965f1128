"""What an experiment needs of the catalog and of files: for the workflow and for `maftp doctor`."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from maftp.config import Params
from maftp.data.catalog import Catalog
from maftp.errors import ParamsError
from maftp.files import find_file
from maftp.results import find_runs

IGNORE_LABEL = 255
"""Of the label maps that are trained on."""
_RELEASED = "weights/released/"
_CLIP = Path("weights/clip")


@dataclass(frozen=True)
class Needs:
    """Names in the catalog, each once."""

    scored: list[str]
    """Benchmarks."""
    validated: list[str]
    """Data sets that are scored during training."""
    datasets: list[str]
    """Data sets that training, validation and evaluation read."""
    kin: list[str]
    """Panoptic and instance ground truth of the evaluated images, which the target `datasets`
    brings as well."""
    training_names: str
    """Source of the training set's class names, which tell seen classes from unseen ones."""
    sources: list[str]
    """Sources of all of these."""
    released: dict[str, str]
    """Released weights, and a variant that takes them."""


def needs_of(params: Params, catalog: Catalog) -> Needs:
    """Look up what an experiment needs.

    Raises:
        DataError: the catalog lacks a benchmark or a data set.
        ParamsError: released weights are taken that no variant says how to read.
    """
    weights = {name: params.for_variant(name).weights for name in params.variants}
    grid = params.ablations if params.has_grid else None
    scored = _once([*params.benchmarks, *((grid and grid.benchmarks) or [])])
    evaluated = _once(catalog.benchmark(name).dataset for name in scored)
    trains = None in weights.values()
    validation = params.train.validation if trains else None
    validated = [catalog.benchmark(validation.benchmark).dataset] if validation else []
    datasets = _once([*([params.data.train] if trains else []), *validated, *evaluated])
    kin = _kin(evaluated, datasets, catalog)
    for name in (name for name, path in weights.items() if path is None):
        _check_trainable(params.for_variant(name), catalog)
    names = catalog.source_of_vocabulary(catalog.dataset(params.data.train).vocabulary)
    sources = [s for name in [*datasets, *kin] for s in catalog.dataset(name).sources]
    released = {Path(w).stem: v for v, w in weights.items() if (w or "").startswith(_RELEASED)}
    for name in weights:
        _check_released(name, params.for_variant(name), released)
    return Needs(
        scored=scored,
        validated=validated,
        datasets=datasets,
        kin=kin,
        training_names=names,
        sources=_once([*sources, names]),
        released=released,
    )


def _check_released(variant: str, params: Params, released: Container[str]) -> None:
    """Check that a variant says how to read each of the released weights that another one takes.

    Raises:
        ParamsError: names the first of which none does, or which are the variant's own weights.
    """
    taken = {f"train.{key}": path for key, path in params.other_weights(0).items()}
    taken["clip.pretrained"] = Path(params.clip.pretrained)
    for key, path in taken.items():
        if not str(path).startswith(_RELEASED):
            continue
        if path.stem not in released:
            raise ParamsError(
                f"{key}: {path} belongs to no variant; add one that evaluates it, with the model "
                "and the CLIP that it is of"
            )
        if params.weights == str(path) and key != "clip.pretrained":
            raise ParamsError(
                f"variants.{variant}: weights and {key} are the same file, {path}; set {key} to "
                "null, or mend the weights"
            )


def missing_files(params: Params, catalog: Catalog) -> list[str]:
    """Say which files parameters name that are not there and that no job makes.

    Returns:
        A sentence for each file: which key names it, and what to do.
    """
    seeds = dict.fromkeys(params.variants, params.seeds)
    if params.ablations is not None and params.has_grid:
        both = {*params.seeds, *(params.ablations.seeds or ())}
        seeds |= dict.fromkeys(params.grid.runs, tuple(sorted(both)))
    made = {Path(_RELEASED, f"{name}.safetensors") for name in catalog.weights}
    for name, own in seeds.items():
        for run in find_runs(Path("results") / params.experiment, [name], own):
            made |= {run.path / "weights.safetensors", run.path / "best.safetensors"}
    missing = {}
    for name, own in seeds.items():
        for key, path in _named_files(params.for_variant(name), own):
            clip = path.parent == _CLIP and path.suffix == ".safetensors"
            if not (clip or path in made or find_file(str(path))):
                what = "make it first" if path.parts[0] == "results" else "put it there"
                missing[path] = f"{key}: there is no file {path}; {what}, or mend the path"
    return list(missing.values())


def _named_files(params: Params, seeds: Iterable[int]) -> Iterator[tuple[str, Path]]:
    """Yield the files that a variant takes, each with the key that names it."""
    if params.clip.config is not None:
        yield "clip.config", Path(params.clip.config)
    if Path(params.clip.pretrained).suffix:  # else a tag of open_clip
        yield "clip.pretrained", Path(params.clip.pretrained)
    for seed in seeds:
        if params.weights is not None:
            yield "weights", Path(params.weights.format(experiment=params.experiment, seed=seed))
        for name, path in params.other_weights(seed).items():
            yield f"train.{name}", path


def _check_trainable(params: Params, catalog: Catalog) -> None:
    """Check that the training set has what the mapper of the training images reads.

    Raises:
        DataError: the catalog has no such data set.
        ParamsError: it cannot be trained on; says what to choose.
    """
    name, mapper = params.data.train, params.input.train.mapper
    dataset = catalog.dataset(name)
    split = dataset.splits.get("train")
    if split is None or not split.count:
        raise ParamsError(
            f"data.train: {name} has no images to train on (no split 'train'); choose another set, "
            f"or add images with 'maftp data add {name} --train'"
        )
    if mapper == "panoptic" and dataset.kind != "panoptic":
        raise ParamsError(
            f"data.train: {name} has no panoptic ground truth, which input.train.mapper panoptic "
            "reads; choose the mapper semantic"
        )
    if mapper != "panoptic" and (split.labels is None or dataset.ignore_label != IGNORE_LABEL):
        raise ParamsError(
            f"data.train: {name} has no 8-bit label maps, which input.train.mapper {mapper} reads; "
            "choose another set" + (" or the mapper panoptic" * (dataset.kind == "panoptic"))
        )


def _kin(evaluated: list[str], datasets: list[str], catalog: Catalog) -> list[str]:
    images = {split.images for name in evaluated for split in catalog.dataset(name).splits.values()}
    return [
        name
        for name, entry in catalog.datasets.items()
        if name not in datasets
        and entry.kind != "semantic"
        and any(split.images in images for split in entry.splits.values())
    ]


def _once(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))
