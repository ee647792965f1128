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
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from maftp.errors import ParamsError
from maftp.grid import PREFIX, Grid, expand
from maftp.yaml_file import read_yaml

LARGEST = 2**31 - 1
Item = TypeVar("Item")


def _ascending(values: tuple[float, float]) -> tuple[float, float]:
    if values[0] > values[1]:
        raise ValueError("the first value is larger than the second; swap them")
    return values


def _unlike(values: tuple[Item, ...]) -> tuple[Item, ...]:
    if any(value in values[:place] for place, value in enumerate(values)):
        raise ValueError("two values are equal; name each once")
    return values


Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=100)]
Text = Annotated[str, Field(min_length=1, pattern=r"^[^\x00-\x1f\x7f]+$")]
Place = Annotated[str, Field(min_length=1, pattern=r"^[^\x00-\x1f\x7f{}]+$")]
"""A path or address; Snakemake gives braces a meaning of their own."""
Title = Annotated[str, Field(min_length=1, pattern=r"^[\p{L}\p{N}(][^<>|`\x00-\x1f\x7f]*$")]
"""Text for tables: no signs that HTML, Markdown or a spreadsheet would take for its own."""
Count = Annotated[int, Field(ge=0, le=LARGEST)]
Positive = Annotated[int, Field(gt=0, le=LARGEST)]
NonNegative = Annotated[float, Field(ge=0, le=1e6)]
AboveZero = Annotated[float, Field(gt=0, le=1e6)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Mean = Annotated[float, Field(ge=0, le=255)]
Deviation = Annotated[float, Field(gt=0, le=255)]
Several = Annotated[tuple[Item, ...], Field(min_length=1), AfterValidator(_unlike)]
"""At least one value, each once."""


class _Block(BaseModel):
    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )


class World(_Block):
    """The miniature world, drawn and packed as official archives."""

    seed: Count
    train_images: Positive
    val_images: Positive
    """Images of each benchmark."""


class Data(_Block):
    """Where the data are and what to train on."""

    root: Place | None
    """Folder of the data sets; null takes $DETECTRON2_DATASETS, else ./datasets."""
    catalog: Place | None
    """Overlay of maftp/data/sources.yaml (URLs, digests, counts); null takes the official one."""
    train: Literal["coco_stuff", "coco_panoptic"]
    """Training set: COCO-Stuff for semantic models, COCO panoptic for panoptic ones."""
    world: World | None
    """Draw the miniature world first; null for data that exist."""
    keep_archives: bool = True
    """false: archives that were downloaded are removed once all data sets made of them are
    converted. What you brought is never removed."""


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
    scale_range: Annotated[tuple[AboveZero, AboveZero], AfterValidator(_ascending)]
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

    pixel_mean: tuple[Mean, Mean, Mean]
    """Mean of R, G, B on the 0..255 scale."""
    pixel_std: tuple[Deviation, Deviation, Deviation]
    """Standard deviation of R, G, B on the 0..255 scale."""
    train: TrainInput
    test: TestInput


class Clip(_Block):
    """The CLIP model that is fine-tuned, or kept frozen."""

    model: Text
    """Name of an open_clip model configuration."""
    config: Place | None
    """JSON file of that configuration when open_clip does not ship it."""
    pretrained: Place
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

    benchmark: Text
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
    clip_gradients: AboveZero
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
    oversample_ratio: Annotated[float, Field(ge=1, le=1e6)]
    importance_sample_ratio: Fraction
    mask_aware_weight: NonNegative
    """Weight of the mask-aware (ranking) loss; 0 leaves it out."""
    rc_weight: NonNegative
    """Weight of representation compensation; 0 leaves it out."""
    rc_scales: Several[Positive]
    """Pooling scales of representation compensation; inputs must be 32 x the largest wide."""
    validation: Validation | None = None
    """Scores, pictures and `best.safetensors` while training; null: none."""


class Execution(_Block):
    """How training and evaluation are computed; results stay the same up to rounding.

    A run that was interrupted continues from its checkpoint when these values change. With
    clip.stochastic_depth, `workers` and `micro_batch_size` also decide which blocks are dropped.
    """

    workers: Positive
    """Ray Train workers, one process each; train.batch_size must be a multiple."""
    gpus_per_worker: Count
    """GPUs of a worker; 0 trains on the CPU. An evaluation takes one where this is not 0."""
    cpus_per_worker: Positive
    """CPU cores of a worker; also its torch threads."""
    loader_workers: Count
    """Data loader processes per worker; 0 loads in the worker itself."""
    micro_batch_size: Positive | None = None
    """Images a worker computes at once, accumulating gradients; null: its share of the batch."""
    gradient_checkpointing: bool = False
    """Recompute CLIP's trunk in the backward pass instead of keeping its activations."""
    checkpoint_period: Positive
    """Steps between checkpoints."""
    checkpoint_minutes: AboveZero | None = None
    """Longest time between checkpoints, in minutes; null: every checkpoint_period steps only."""
    checkpoints_kept: Positive
    """Newest checkpoints that are kept."""
    log_period: Positive
    """Steps between progress lines and logged metrics."""


class Augmentation(_Block):
    """Test-time augmentation: semantic scores averaged over sizes and flips."""

    short_sides: Several[Positive]
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

    check_machine: bool = True
    """Compare disk, memory and GPUs with what the experiment needs before anything starts."""
    nodes: Positive = 1
    """Nodes of a training; execution.workers are spread evenly over them."""
    train_retries: Count = 2
    """How often a training that was killed or preempted is started again; it goes on."""
    worker_retries: Count = 3
    """How often lost workers are started again within one training."""
    checkpoint_mirror: Place | None = None
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
    overlays: Count
    """Pictures drawn per benchmark."""
    augmentation: Augmentation | None = None
    """Test-time augmentation of semantic benchmarks; null is off, as for all published scores."""


class AblationPart(_Block):
    """A cell of the grid that differs from another in one key; others can start from it."""

    title: Title
    """What the table calls it."""
    start: Text
    """Cell it starts from: `full`, or a part above."""
    key: Text
    """The parameter that is changed, such as train.rc_weight."""
    value: Any


class AblationSweep(_Block):
    """Several values of one parameter."""

    title: Title
    start: Text
    """Cell it starts from: `full`, or a part."""
    key: Text
    values: Several[Any]


class Ablations(_Block):
    """The grid of ablations: cells that differ from one another in one parameter each."""

    full: Text
    """Variant that is the full model."""
    benchmarks: Several[Text] | None
    """Benchmarks to score; null takes the experiment's."""
    seeds: Several[Count] | None
    """null takes the experiment's."""
    overrides: dict[str, Any]
    """Keys that differ from the rest of this file in all cells; another file replaces them all."""
    parts: dict[Name, AblationPart]
    sweeps: dict[Name, AblationSweep]


class Tracking(_Block):
    """MLflow."""

    uri: Place
    """Tracking server; $MLFLOW_TRACKING_URI wins over it."""


class Params(_Block):
    """One experiment, or one of its variants."""

    experiment: Name
    """Name of the experiment; its files lie under results/{experiment}."""
    seeds: Several[Count]
    benchmarks: Several[Text]
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
    weights: Text | None
    """Evaluate this checkpoint instead of training; {experiment} and {seed} are filled in."""
    variants: dict[Name, dict[str, Any]]
    """Rows of the table: variant name to the keys that differ from the rest of this file."""
    ablations: Ablations | None = None
    """Grid of ablations; null has none."""

    @model_validator(mode="after")
    def _check(self) -> Params:
        for variant, overrides in self.variants.items():
            for key in _dotted(overrides):
                _refuse_shared(key, where=f"variants.{variant}", shared=SHARED)
        if self.ablations is not None:
            self._check_grid_keys(self.ablations)
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

    @staticmethod
    def _check_grid_keys(grid: Ablations) -> None:
        for key in _dotted(grid.overrides):
            _refuse_shared(key, where="ablations.overrides", shared=SHARED)
        for group, cells in (("parts", grid.parts), ("sweeps", grid.sweeps)):
            for name, cell in cells.items():
                # trained cells have weights of their own
                where = f"ablations.{group}.{name}.key"
                _refuse_shared(cell.key, where=where, shared=(*SHARED, "weights"))

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


def recorded_params(values: Mapping[str, Any], *, source: str) -> Params:
    """Check parameters that an earlier version may have recorded: keys get their names of today.

    Raises:
        ParamsError: see `parse_params`.
    """
    renamed = copy.deepcopy(dict(values))
    for old, new in MOVED.items():
        block, key = old.split(".")
        if key in renamed.get(block, {}):
            target, name = new.split(".")
            renamed.setdefault(target, {})[name] = renamed[block].pop(key)
    return parse_params(renamed, source=source)


def load_params(path: Path | str, *overlays: Path | str) -> Params:
    """Read a parameter file and lay others over it, key by key; lists are replaced.

    Raises:
        ParamsError: a file is missing or no YAML mapping, or a key or value is wrong.
    """
    values: dict[str, Any] = {}
    for file in (path, *overlays):
        values = _merge(values, read_yaml(Path(file), kind="parameter file", error=ParamsError))
    source = ", ".join(str(file) for file in (path, *overlays))
    params = parse_params(values, source=source)
    for variant in params.variants:
        params.for_variant(variant)
    if params.ablations is not None and params.ablations.full in params.variants:
        for run in params.grid.runs:
            params.for_variant(run)
    return params


SHARED = (
    *("variants", "ablations", "seeds", "experiment", "benchmarks", "data", "resources"),
    *("tracking", "train.validation", "execution.workers", "execution.gpus_per_worker"),
    *("execution.cpus_per_worker", "execution.loader_workers"),
)
"""What all variants of an experiment have in common."""


def _dotted(values: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return the dotted keys of all values that are no mappings."""
    found = []
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            found += _dotted(value, f"{prefix}{key}.")
        else:
            found.append(f"{prefix}{key}")
    return found


def _refuse_shared(key: str, *, where: str, shared: Sequence[str]) -> None:
    for block in shared:
        if f"{key}.".startswith(f"{block}."):
            raise ValueError(
                f"{where}: a variant cannot change {key}; write an experiment of its own, a file "
                "for --configfile"
            )


MOVED = {
    "data.workers": "execution.loader_workers",
    "train.images_per_pass": "execution.micro_batch_size",
    "train.recompute_trunk": "execution.gradient_checkpointing",
} | {
    f"train.{name}": f"execution.{name}"
    for name in (
        *("workers", "gpus_per_worker", "cpus_per_worker", "checkpoint_period"),
        *("checkpoint_minutes", "checkpoints_kept", "log_period"),
    )
}
"""Keys of version 0.1, by their old name."""


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
    key = ".".join(str(part) for part in error["loc"] if part != "[key]")
    more = f" ({count - 1} more like this)" if count > 1 else ""
    if error["type"] == "missing":
        return f"key {key!r} is missing; add it{more}"
    if error["type"] == "extra_forbidden":
        if key in MOVED:
            return f"key {key!r} is called {MOVED[key]!r} now; rename it{more}"
        return f"key {key!r} is not known; remove it or mend its spelling{more}"
    if error["type"] == "value_error":
        message = str(error["ctx"]["error"])
        return (f"key {key!r} is {_shown(error['input'])}: {message}" if key else message) + more
    message = error["msg"]  # patterns keep their case
    return f"key {key!r} is {_shown(error['input'])}: {message[:1].lower()}{message[1:]}{more}"


def _shown(value: Any) -> str:
    """Return a value as a parameter file has it, cut where it is long."""
    text = repr(list(value) if isinstance(value, tuple) else value)
    return text if len(text) <= 100 else f"{text[:100]}..."


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
