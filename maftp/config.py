"""Typed, frozen parameters: the only shape of `params.yaml` and of the experiments laid over it.

Every value a run depends on stands in a parameter file, so that a key has one home. Only what is
off unless asked for, and what no result depends on, has a default here. Unknown keys are refused.
`load_params` names the file and the key of what is wrong.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from maftp.errors import ParamsError
from maftp.grid import PREFIX, Grid, expand

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
Positive = Annotated[int, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Colour = tuple[float, float, float]


class _Block(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True
    )


class World(_Block):
    """The miniature world, drawn and packed as official archives."""

    seed: int
    train_images: Positive
    val_images: Positive
    """Images of each benchmark."""


class Data(_Block):
    """Where the data are and what to train on."""

    root: str | None
    """Folder of the data sets; null takes $DETECTRON2_DATASETS, else ./datasets."""
    catalog: str | None
    """Overlay of maftp/data/sources.yaml (URLs, digests, counts); null takes the official one."""
    train: Literal["coco_stuff", "coco_panoptic"]
    """Training set: COCO-Stuff for semantic models, COCO panoptic for panoptic ones."""
    world: World | None
    """Draw the miniature world first; null for data that exist."""


class TrainInput(_Block):
    """From a training image to the network's input."""

    mapper: Literal["semantic", "panoptic"]
    """semantic: resize and flip; panoptic: large-scale jitter and a square crop."""
    short_side: Positive
    """Shorter side after resizing, in pixels (semantic mapper)."""
    max_side: Positive
    """Largest longer side after resizing, in pixels (semantic mapper)."""
    crop_size: Positive
    """Side of the square crop, in pixels (panoptic mapper)."""
    scale_range: tuple[float, float]
    """Range of the large-scale jitter (panoptic mapper)."""
    flip: Fraction
    """Probability of a horizontal flip."""


class TestInput(_Block):
    """From a test image to the network's input."""

    __test__ = False  # keeps pytest from collecting a class named Test*

    short_side: Positive
    """Shorter side after resizing, in pixels."""
    max_side: Positive
    """Largest longer side after resizing, in pixels."""


class Input(_Block):
    """Normalisation and sizes of images."""

    pixel_mean: Colour
    """Mean of R, G, B on the 0..255 scale."""
    pixel_std: Colour
    """Standard deviation of R, G, B on the 0..255 scale."""
    train: TrainInput
    test: TestInput


class Clip(_Block):
    """The CLIP model that is fine-tuned, or kept frozen."""

    model: str
    """Name of an open_clip model configuration."""
    config: str | None
    """JSON file of that configuration when open_clip does not ship it."""
    pretrained: str
    """open_clip tag of the weights, or a local weight file (.safetensors)."""
    stochastic_depth: bool
    """True drops residual blocks in training, as the public code does by accident."""
    templates: Literal[1, 14]
    """Sentences per name: the 14 of the method, or the first of them alone."""


class Cdt(_Block):
    """Content-dependent transfer of the text embeddings."""

    enabled: bool
    form: Literal["semantic", "panoptic"]
    """semantic: LN(T + Y); panoptic: T + LN(Y). Released weights fix it."""
    num_heads: Positive
    layers: Positive = 1
    """Attention layers one after another; released weights have one."""
    tokens: Literal["released", "spatial"]
    """released: chunks across channels, as in released weights; spatial: one token per pixel."""


class Model(_Block):
    """Architecture."""

    name: Literal["maftp", "fcclip"]
    """maftp: CLIP fine-tuned with the method; fcclip: the baseline, frozen CLIP."""
    num_queries: Positive
    hidden_dim: Positive
    """Width of pixel decoder and transformer decoder; a multiple of 32 and of num_heads."""
    num_heads: Positive
    encoder_layers: Positive
    encoder_feedforward: Positive
    num_points: Positive
    """Sampling points of the deformable attention per head and level."""
    decoder_layers: Positive
    decoder_feedforward: Positive
    cdt: Cdt
    ensemble: Literal["geometric", "head", "clip"] = "geometric"
    """Class scores of fcclip: geometric mean of head and CLIP, or one of them alone."""
    ensemble_alpha: Fraction
    """Weight of CLIP for classes seen in training (fcclip)."""
    ensemble_beta: Fraction
    """Weight of CLIP for classes unseen in training (fcclip)."""


class Validation(_Block):
    """Scores between training steps; the weights that score best are kept as well."""

    benchmark: str
    """Name in the catalog; choose another than the ones you report."""
    period: Positive
    """Steps between two validations; one more follows the last step."""
    images: Positive | None = None
    """Number of its images; null: all."""


class Train(_Block):
    """Recipe: every value here changes the trained weights."""

    iterations: Positive
    """Optimizer steps."""
    batch_size: Positive
    """Images per optimizer step over all workers."""
    learning_rate: NonNegative
    backbone_multiplier: NonNegative
    """Factor on the learning rate of the CLIP trunk."""
    weight_decay: NonNegative
    power: NonNegative
    """Exponent of the polynomial decay of the learning rate."""
    clip_gradients: NonNegative
    """Largest global L2 norm of the gradient."""
    amp: bool
    """Autocast in `amp_dtype`; needs a GPU."""
    amp_dtype: Literal["float16", "bfloat16"] = "float16"
    """float16 comes with loss scaling; bfloat16 needs none, and a GPU of 2020 or later."""
    class_weight: NonNegative
    mask_weight: NonNegative
    dice_weight: NonNegative
    no_object_weight: NonNegative
    num_points: Positive
    """Points per mask of the mask losses and the matcher."""
    oversample_ratio: Annotated[float, Field(ge=1)]
    importance_sample_ratio: Fraction
    mask_aware_weight: NonNegative
    """Weight of the mask-aware (ranking) loss; 0 leaves it out."""
    rc_weight: NonNegative
    """Weight of representation compensation; 0 leaves it out."""
    rc_scales: tuple[Positive, ...]
    """Pooling scales of representation compensation; inputs must be 32 x the largest wide."""
    validation: Validation | None = None
    """Scores, pictures and `best.safetensors` while training; null: none."""


class Execution(_Block):
    """How training and evaluation are computed; results stay the same up to rounding.

    A run that was interrupted continues from its checkpoint when these values change.
    """

    workers: Positive
    """Ray Train workers, one process each; train.batch_size must be a multiple."""
    gpus_per_worker: Annotated[int, Field(ge=0)]
    """GPUs of a worker; 0 trains on the CPU. An evaluation takes one where this is not 0."""
    cpus_per_worker: Positive
    """CPU cores of a worker; also its torch threads."""
    loader_workers: Annotated[int, Field(ge=0)]
    """Data loader processes per worker; 0 loads in the worker itself."""
    micro_batch_size: Positive | None = None
    """Images a worker computes at once, accumulating gradients; null: its share of the batch."""
    gradient_checkpointing: bool = False
    """Recompute CLIP's trunk in the backward pass instead of keeping its activations."""
    checkpoint_period: Positive
    """Steps between checkpoints."""
    checkpoint_minutes: Annotated[float, Field(gt=0)] | None = None
    """Longest time between checkpoints, in minutes; null: every checkpoint_period steps only."""
    checkpoints_kept: Positive
    """Newest checkpoints that are kept."""
    log_period: Positive
    """Steps between progress lines and logged metrics."""


class Augmentation(_Block):
    """Test-time augmentation: semantic scores averaged over sizes and flips."""

    short_sides: Annotated[tuple[Positive, ...], Field(min_length=1)]
    """Shorter sides in pixels; the image is resized once more to each."""
    max_side: Positive
    """Largest longer side, in pixels."""
    flip: bool
    """Also flip each version horizontally."""


class Need(_Block):
    """What one job needs; both grow with every retry."""

    memory_mb: Positive
    """Memory in MB, per node."""
    minutes: Positive
    """Longest time the job may take."""


class Resources(_Block):
    """What jobs ask of Slurm or Kubernetes. No result depends on it."""

    nodes: Positive = 1
    """Nodes of a training; execution.workers are spread evenly over them."""
    train_retries: Annotated[int, Field(ge=0)] = 2
    """How often a training that was killed or preempted is started again; it goes on."""
    worker_retries: Annotated[int, Field(ge=0)] = 3
    """How often lost workers are started again within one training."""
    checkpoint_mirror: str | None = None
    """URI of a folder, such as s3://bucket/folder, that checkpoints are copied to as well."""
    train: Need = Need(memory_mb=8000, minutes=720)
    evaluate: Need = Need(memory_mb=8000, minutes=240)
    prepare: Need = Need(memory_mb=4000, minutes=240)
    """Every other job: download, unpack, convert, embed, tables."""


class Evaluate(_Block):
    """Inference and metrics."""

    post_process_first: bool | None
    """Resize masks (true) or scores (false) to the image; null: true for panoptic output only."""
    object_threshold: Fraction
    """Smallest class probability of a panoptic segment."""
    overlap_threshold: Fraction
    """Smallest part of a segment's own area it must win."""
    shuffle_vocabulary: bool
    """Control: permute the class names, which an open-vocabulary model must not survive."""
    max_images: Positive | None
    """Evaluate the first so many images only; null takes all."""
    overlays: Annotated[int, Field(ge=0)]
    """Pictures drawn per benchmark."""
    augmentation: Augmentation | None = None
    """Test-time augmentation of semantic benchmarks; null is off, as for all published scores."""


class AblationPart(_Block):
    """A cell of the grid that differs from another in one key; others can start from it."""

    title: str
    """What the table calls it."""
    start: str
    """Cell it starts from: `full`, or a part above."""
    key: str
    """The parameter that is changed, such as train.rc_weight."""
    value: Any


class AblationSweep(_Block):
    """Several values of one parameter."""

    title: str
    start: str
    """Cell it starts from: `full`, or a part."""
    key: str
    values: tuple[Any, ...]


class Ablations(_Block):
    """The grid of ablations: cells that differ from one another in one parameter each."""

    full: str
    """Variant that is the full model."""
    benchmarks: tuple[str, ...] | None
    """Benchmarks to score; null takes the experiment's."""
    seeds: tuple[int, ...] | None
    """null takes the experiment's."""
    overrides: dict[str, Any]
    """Keys that differ from the rest of this file in all cells; another file replaces them all."""
    parts: dict[Name, AblationPart]
    sweeps: dict[Name, AblationSweep]


class Tracking(_Block):
    """MLflow."""

    uri: str
    """Tracking server; $MLFLOW_TRACKING_URI wins over it."""


class Params(_Block):
    """One experiment, or one of its variants."""

    experiment: Name
    """Name of the experiment; its files lie under results/{experiment}."""
    seeds: tuple[int, ...]
    benchmarks: tuple[str, ...]
    """Benchmarks of the table, by their names in the catalog."""
    data: Data
    input: Input
    clip: Clip
    model: Model
    train: Train
    execution: Execution
    evaluate: Evaluate
    tracking: Tracking
    resources: Resources = Resources()
    weights: str | None
    """Evaluate this checkpoint instead of training; {experiment} and {seed} are filled in."""
    variants: dict[Name, dict[str, Any]]
    """Rows of the table: variant name to the keys that differ from the rest of this file."""
    ablations: Ablations | None = None
    """Grid of ablations; null has none."""

    @model_validator(mode="after")
    def _check(self) -> Params:
        for variant, overrides in self.variants.items():
            for key in (
                "variants",
                "ablations",
                "seeds",
                "experiment",
                "benchmarks",
                "data",
                "resources",
            ):
                if key in overrides:
                    raise ValueError(f"variants.{variant}.{key}: a variant cannot change this key")
        workers = self.execution.workers
        if self.train.batch_size % workers:
            raise ValueError("train.batch_size: must be a multiple of execution.workers")
        share = self.train.batch_size // workers
        if share % (self.execution.micro_batch_size or share):
            raise ValueError(
                f"execution.micro_batch_size: must divide the {share} images of a worker "
                "(train.batch_size / execution.workers)"
            )
        if workers % self.resources.nodes:
            raise ValueError("execution.workers: must be a multiple of resources.nodes")
        if self.model.hidden_dim % 32 or self.model.hidden_dim % self.model.num_heads:
            raise ValueError("model.hidden_dim: must be a multiple of 32 and of model.num_heads")
        return self

    def for_variant(self, variant: str) -> Params:
        """Return these parameters with the overrides of `variant` applied and no variants left.

        Raises:
            ParamsError: there is no such variant, or its overrides are wrong.
        """
        if variant in self.variants:
            return parse_params(self._variant_values(variant), source=f"variants.{variant}")
        if variant.startswith(PREFIX) and variant in (runs := self.grid.runs):
            return parse_params(runs[variant], source=f"ablations, run {variant}")
        raise ParamsError(
            f"variant {variant!r} is not in the parameters; known: {', '.join(self.variants)}"
        )

    @cached_property
    def grid(self) -> Grid:
        """The ablation grid: its table's rows and the values of its runs.

        Raises:
            ParamsError: there is none, or it names what is not there.
        """
        if self.ablations is None:
            raise ParamsError("ablations: these parameters have no grid; write one")
        variants = {variant: self._variant_values(variant) for variant in self.variants}
        plain = self.model_dump(mode="python", include={"ablations"})["ablations"]
        try:
            return expand(variants, plain)
        except ValueError as error:
            raise ParamsError(str(error)) from None

    def _variant_values(self, variant: str) -> dict[str, Any]:
        values = self.model_dump(mode="python", exclude={"ablations"})
        overrides = values.pop("variants")[variant]
        return _tuples(_merge(values, overrides)) | {"variants": {}, "ablations": None}


def parse_params(values: Mapping[str, Any], *, source: str) -> Params:
    """Check `values` against the shape of `params.yaml`.

    Raises:
        ParamsError: names `source` and the first wrong key, what was found and what is wanted.
    """
    try:
        return Params.model_validate(_tuples(dict(values)))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ParamsError(f"{source}: {_sentence(first, len(error.errors()))}") from None


def load_params(path: Path | str, *overlays: Path | str) -> Params:
    """Read a parameter file and lay others over it, key by key; lists are replaced.

    Raises:
        ParamsError: a file is missing or no YAML mapping, or a key or value is wrong.
    """
    values: dict[str, Any] = {}
    for file in (path, *overlays):
        values = _merge(values, _read_yaml(Path(file)))
    params = parse_params(values, source=", ".join(str(file) for file in (path, *overlays)))
    for variant in params.variants:
        params.for_variant(variant)
    if params.ablations is not None and params.ablations.full in params.variants:
        for run in params.grid.runs:
            params.for_variant(run)
    return params


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise ParamsError(f"{path}: no such parameter file") from None
    except yaml.YAMLError as error:
        raise ParamsError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise ParamsError(f"{path}: expected keys and values, found {type(values).__name__}")
    return values


_REPLACED = ("variants", "overrides", "parts", "sweeps")
"""Blocks that a later file replaces instead of merging."""


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = copy.deepcopy(dict(base))
    for key, value in over.items():
        if (
            key not in _REPLACED
            and isinstance(value, Mapping)
            and isinstance(merged.get(key), Mapping)
        ):
            merged[key] = _merge(merged[key], value)
        else:
            merged[key] = copy.deepcopy(value)
    return merged


def _tuples(value: Any) -> Any:
    """Turn YAML's lists into tuples, which strict frozen models ask for."""
    if isinstance(value, Mapping):
        return {key: _tuples(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(_tuples(item) for item in value)
    return value


def _sentence(error: Mapping[str, Any], count: int) -> str:
    key = ".".join(str(part) for part in error["loc"])
    more = f" ({count - 1} more like this)" if count > 1 else ""
    if error["type"] == "missing":
        return f"key {key!r} is missing; add it{more}"
    if error["type"] == "extra_forbidden":
        return f"key {key!r} is not known; remove it or mend its spelling{more}"
    if error["type"] == "value_error":
        return f"{error['ctx']['error']}{more}"
    return f"key {key!r} is {error['input']!r}: {error['msg'].lower()}{more}"


def describe_keys() -> str:
    """Return one line per key of `params.yaml`: its path and what it means."""
    return "\n".join(_describe(Params, prefix=""))


def _describe(block: type[BaseModel], prefix: str) -> list[str]:
    lines = []
    for name, field in block.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            lines += _describe(field.annotation, prefix=f"{prefix}{name}.")
        else:
            lines.append(f"{prefix}{name}: {field.description or name.replace('_', ' ')}")
    return lines
