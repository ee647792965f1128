"""The blocks of `params.yaml`: type, range and meaning of every key.

Every value of a run comes from a parameter file, so that a key has one home. Only opt-in features
and settings that cannot affect results have defaults here. `maftp params --schema` prints these
texts; they are also the comments of `params.yaml`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

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


def _no_other_braces(path: str) -> str:
    if {"{", "}"} & set(path.replace("{experiment}", "").replace("{seed}", "")):
        raise ValueError("only {experiment} and {seed} are filled in; leave out other braces")
    return path


Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=100)]
Text = Annotated[str, Field(min_length=1, pattern=r"^[^\x00-\x1f\x7f]+$")]
Place = Annotated[str, Field(min_length=1, pattern=r"^[^\x00-\x1f\x7f{}]+$")]
"""A path or address; Snakemake gives braces a meaning of their own."""
Checkpoint = Annotated[Text, AfterValidator(_no_other_braces)]
"""The path of a checkpoint, with {experiment} and {seed} filled in."""
Title = Annotated[
    str,
    Field(
        min_length=1,
        pattern=r"^[\p{L}\p{N}(][^<>|`\x00-\x1f\x7f]*$",
        json_schema_extra={"pattern": r"^[^<>|`\x00-\x1f\x7f]+$"},  # JSON schemas know no \p
    ),
]
"""Text for tables: no signs that HTML, Markdown or a spreadsheet would take for its own."""
Count = Annotated[int, Field(ge=0, le=LARGEST)]
Positive = Annotated[int, Field(gt=0, le=LARGEST)]
NonNegative = Annotated[float, Field(ge=0, le=1e6)]
AboveZero = Annotated[float, Field(gt=0, le=1e6)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Mean = Annotated[float, Field(ge=0, le=255)]
Deviation = Annotated[float, Field(gt=0, le=255)]
Several = Annotated[
    tuple[Item, ...],
    Field(min_length=1, json_schema_extra={"uniqueItems": True}),
    AfterValidator(_unlike),
]
"""At least one value, each once."""
Overrides = dict[str, Any]
"""Keys of this file that differ."""


class Block(BaseModel):
    """Values of one block; unknown keys are refused."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )


class World(Block):
    """The miniature world, drawn and packed as official archives."""

    seed: Count
    """Seed of the drawing; another one draws other scenes."""
    train_images: Positive
    """Scenes to train on."""
    val_images: Positive
    """Scenes of each benchmark to evaluate on."""


class Data(Block):
    """Where the data are and what to train on."""

    root: Place | None
    """Folder of the data sets; null takes $DETECTRON2_DATASETS, or else ./datasets."""
    catalog: Place | None
    """File laid over maftp/data/sources.yaml (URLs, digests, counts); null: the official data."""
    own: Place | None = None
    """Catalog of your own data sets, which `maftp data add` writes; laid over all others."""
    train: Name
    """Training set, by its name in the catalog: coco_stuff, coco_panoptic, or one of your own."""
    world: World | None
    """The miniature world to draw before anything else; null: the data exist already."""
    keep_archives: bool = True
    """false removes downloads after conversion; what you brought yourself always stays."""


class TrainInput(Block):
    """From a training image to the network's input."""

    mapper: Literal["semantic", "panoptic", "semantic_crop", "semantic_jitter"]
    """semantic: resize; panoptic, semantic_jitter: jitter, crop; semantic_crop: crop, colours."""
    short_side: Positive
    """Shorter side after resizing, in pixels (semantic mapper)."""
    max_side: Positive
    """Upper limit of the longer side after resizing, in pixels (semantic, semantic_crop)."""
    crop_size: Positive
    """Side of the square crop, in pixels (all but the semantic mapper)."""
    scale_range: Annotated[tuple[AboveZero, AboveZero], AfterValidator(_ascending)]
    """Smallest and largest size before the crop, in crops (all but the semantic mapper)."""
    flip: Fraction
    """Probability of a horizontal flip."""


class TestInput(Block):
    """From a test image to the network's input."""

    __test__ = False  # keeps pytest from collecting a class named Test*

    short_side: Positive
    """Shorter side after resizing, in pixels; larger finds smaller things and takes longer."""
    max_side: Positive
    """Upper limit of the longer side after resizing, in pixels."""


class Input(Block):
    """From pictures to what the network sees: normalisation and sizes."""

    pixel_mean: tuple[Mean, Mean, Mean]
    """Mean of R, G and B that is subtracted, on the scale of 0 to 255; CLIP's own."""
    pixel_std: tuple[Deviation, Deviation, Deviation]
    """Standard deviation of R, G and B to divide by, on the scale of 0 to 255; CLIP's own."""
    train: TrainInput
    """From a training image to the network's input."""
    test: TestInput
    """From a test image to the network's input."""


class Clip(Block):
    """The CLIP model that is fine-tuned, or kept frozen."""

    model: Text
    """Name of an open_clip model configuration."""
    config: Place | None
    """JSON file of that configuration; null: open_clip ships it."""
    pretrained: Place
    """open_clip tag of the weights, or a local weight file (.safetensors)."""
    stochastic_depth: bool
    """Drop residual blocks at random in training, as the public code does by accident."""
    templates: Literal[1, 14]
    """Sentences per class name whose embeddings are averaged: the method's 14, or the first."""


class Cdt(Block):
    """Content-dependent transfer of the text embeddings."""

    enabled: bool
    """Adapt the text embeddings to the image; false leaves them as CLIP made them."""
    form: Literal["semantic", "panoptic"]
    """semantic: LN(T + Y); panoptic: T + LN(Y). Weights fit the form they were trained with."""
    num_heads: Positive
    """Attention heads; they must divide CLIP's embedding dimension."""
    layers: Positive = 1
    """Attention layers, one after another; released weights have one."""
    tokens: Literal["released", "spatial"]
    """released: chunks across channels, as in released weights; spatial: one token per pixel."""


class MaskClippp(Block):
    """MaskCLIP++: a second CLIP that names the masks of a frozen model."""

    student: Literal["convnext", "eva02_l"] = "convnext"
    """The second CLIP: of the kind of `clip`, or EVA02-L with a text tower of its own."""
    student_short_side: Positive = 512
    """Shorter side of the second CLIP's input at inference, in pixels."""
    proposal_short_side: Positive = 800
    """Shorter side of the frozen model's input at inference, in pixels."""
    num_heads: Positive = 8
    """Attention heads from text to image; they must divide CLIP's embedding dimension."""
    attention_dropout: Fraction = 0.1
    """Share of that attention which is dropped in training."""


class MaskAdapter(Block):
    """Mask-Adapter: a network that decides where under a mask CLIP's features are pooled."""

    family: Literal["fcclip", "maftp"] = "fcclip"
    """What proposes masks; over maftp the text is adapted to the image as there."""
    mask_cut: Fraction = 0.5
    """Probability above which a pixel belongs to a mask that the adapter is given."""
    width: Positive = 768
    """Channels of the adapter's blocks."""
    maps: Positive = 16
    """Attention maps per mask, whose embeddings are averaged."""


class Model(Block):
    """Architecture; weights fit the one they were trained with."""

    name: Literal["maftp", "fcclip", "ovrcoat", "maskclippp", "mask_adapter"]
    """maftp: fine-tuned CLIP; fcclip: the baseline, frozen CLIP; docs/methods.md tells of all."""
    num_queries: Positive
    """Queries; each proposes one mask, so no image gets more segments than this."""
    hidden_dim: Positive
    """Width of pixel decoder and transformer decoder; a multiple of 32 and of num_heads."""
    num_heads: Positive
    """Attention heads of both decoders."""
    encoder_layers: Positive
    """Deformable attention layers of the pixel decoder."""
    encoder_feedforward: Positive
    """Width of the feed-forward networks in the pixel decoder."""
    num_points: Positive
    """Sampling points of the deformable attention per head and level."""
    decoder_layers: Positive
    """Layers of the transformer decoder; each refines the masks, and each has losses."""
    decoder_feedforward: Positive
    """Width of the feed-forward networks in the transformer decoder."""
    cdt: Cdt
    """Content-dependent transfer of the text embeddings."""
    ensemble: Literal["geometric", "head", "clip"] = "geometric"
    """Class scores of fcclip: geometric mean of head and CLIP, or one of them alone."""
    trust_weight: Fraction = 0.0
    """COAT: share by which CLIP's confidence in a class lowers the head's probability of void."""
    maskclippp: MaskClippp = MaskClippp()
    """MaskCLIP++: a second CLIP that names the masks of a frozen model."""
    mask_adapter: MaskAdapter = MaskAdapter()
    """Mask-Adapter: a network that decides where under a mask CLIP's features are pooled."""
    ensemble_alpha: Fraction
    """Weight of CLIP in that mean for classes seen in training."""
    ensemble_beta: Fraction
    """Weight of CLIP in that mean for classes not seen in training."""


class Validation(Block):
    """Scores between training steps; the weights that score best are kept as well."""

    benchmark: Text
    """Name in the catalog; choose one that you do not report."""
    period: Positive
    """Steps between two validations; one more follows the last step."""
    images: Positive | None = None
    """How many of its images to score, from the first on; null: all."""


class Ovr(Block):
    """OVRCOAT's loss on CLIP's class probabilities, and quirks of the public code."""

    weight: NonNegative = 0.1
    """Weight of the loss; 0 leaves it out."""
    double_softmax: bool = True
    """Take probabilities for logits, as the public code does; false: plain cross-entropy."""
    train_logit_scale: bool = True
    """Train CLIP's logit scale, which the public code forgets to freeze."""
    train_projection: bool = True
    """Train ConvNeXt-Base's projection, which it forgets too; Large's is frozen anyway."""


class Adapter(Block):
    """The two phases in which Mask-Adapter is trained, and differences between its two families."""

    phase: Literal["warmup", "mixed"] = "mixed"
    """warmup: ground-truth masks; mixed: half of them, and proposals that match."""
    cosine_weight: NonNegative = 5.0
    """Weight of the distance between a proposal's embedding and that of the mask it matches."""
    matching_cut: Fraction = 0.4
    """Probability from which on a pixel belongs to a proposal when it is matched."""
    detach_truth: bool = True
    """Let that distance move the proposal's embedding alone, as over fcclip; false: both."""
    train_void: bool = True
    """Train the embedding of void, although the head that uses it is frozen."""


class Train(Block):
    """Recipe: every value here changes the trained weights."""

    iterations: Positive
    """Optimizer steps."""
    batch_size: Positive
    """Images per optimizer step, over all workers."""
    learning_rate: NonNegative
    """Learning rate of AdamW at the first step."""
    backbone_multiplier: NonNegative
    """Factor on the learning rate of CLIP's trunk; 0 freezes it."""
    weight_decay: NonNegative
    """Weight decay of AdamW."""
    power: NonNegative
    """Exponent of the polynomial decay of the learning rate; 0 keeps it constant."""
    schedule: Literal["poly", "cosine", "steps"] = "poly"
    """poly: by `power`; cosine: half a wave to `final_rate`; steps: a tenth at each milestone."""
    final_rate: Fraction = 0.0
    """Share of the learning rate at which the cosine schedule ends."""
    milestones: tuple[Positive, ...] = ()
    """Optimizer steps at which the schedule `steps` divides the learning rate by ten."""
    clip_gradients: AboveZero
    """Upper limit of the gradient's L2 norm over all weights; a larger gradient is scaled down."""
    amp: bool
    """Compute in `amp_dtype` where that is safe: faster, with less memory; needs a GPU."""
    amp_dtype: Literal["float16", "bfloat16"] = "float16"
    """float16 comes with loss scaling; bfloat16 needs none, but a GPU of 2020 or later."""
    tf32: bool = False
    """Let a GPU of 2020 or later multiply float32 with ten bits of fraction: faster, less exact."""
    class_weight: NonNegative
    """Weight of the classification loss, in the matcher as well."""
    mask_weight: NonNegative
    """Weight of the masks' cross-entropy, in the matcher as well."""
    dice_weight: NonNegative
    """Weight of the masks' Dice loss, in the matcher as well."""
    no_object_weight: NonNegative
    """Weight of queries without an object within the classification loss."""
    num_points: Positive
    """Points per mask at which the mask losses and the matcher compare."""
    oversample_ratio: Annotated[float, Field(ge=1, le=1e6)]
    """Candidates drawn per point, from which the most uncertain are taken."""
    importance_sample_ratio: Fraction
    """Share of the points taken for their uncertainty; the others are drawn evenly."""
    mask_aware_weight: NonNegative
    """Weight of the mask-aware (ranking) loss; 0 leaves it out."""
    rc_weight: NonNegative
    """Weight of representation compensation; 0 leaves it out."""
    rc_scales: Several[Positive]
    """Pooling scales of representation compensation; inputs must be 32 x the largest wide."""
    proposals: Checkpoint | None = None
    """Checkpoint of the frozen model that proposes masks; {experiment} and {seed} are filled in."""
    student: Checkpoint | None = None
    """Weight file of EVA-CLIP for the student eva02_l, written likewise."""
    start: Checkpoint | None = None
    """Checkpoint that training starts from, written likewise; of mask_adapter the adapter alone."""
    ovr: Ovr = Ovr()
    """OVRCOAT's loss on CLIP's class probabilities; no other model has it."""
    adapter: Adapter = Adapter()
    """The two phases in which Mask-Adapter is trained; no other model has them."""
    validation: Validation | None = None
    """Scores, pictures and `best.safetensors` while training; null: none."""


class Execution(Block):
    """How training and evaluation are computed; results stay the same up to rounding.

    A run that was interrupted continues from its checkpoint when these values change. With
    clip.stochastic_depth, `workers` and `micro_batch_size` also decide which blocks are dropped.
    """

    workers: Positive
    """Ray Train workers, one process each; train.batch_size must be a multiple of them."""
    gpus_per_worker: Count
    """GPUs per worker; 0 trains on the CPU. An evaluation takes one unless this is 0."""
    cpus_per_worker: Positive
    """CPU cores per worker; also its PyTorch threads."""
    loader_workers: Count
    """Data loader processes per worker; 0 loads in the worker itself."""
    micro_batch_size: Positive | None = None
    """Images a worker computes at once; fewer need less memory. null: its whole share."""
    gradient_checkpointing: bool = False
    """Recompute CLIP's trunk in the backward pass: less memory, one more forward pass of it."""
    checkpoint_period: Positive
    """Steps between checkpoints."""
    checkpoint_minutes: AboveZero | None = None
    """Longest time between checkpoints, in minutes; null: only `checkpoint_period` counts."""
    checkpoints_kept: Positive
    """Newest checkpoints to keep; older ones are deleted."""
    log_period: Positive
    """Steps between progress lines and logged metrics."""
    evaluate_together: bool = False
    """Score all benchmarks of a run in one process: of small ones, starting takes longest."""


class Augmentation(Block):
    """Test-time augmentation: semantic scores averaged over sizes and flips."""

    short_sides: Several[Positive]
    """Shorter sides, in pixels; the image is scored at each of them."""
    max_side: Positive
    """Upper limit of the longer side, in pixels."""
    flip: bool
    """Score each size mirrored as well."""


class JobResources(Block):
    """What one job needs; both grow with every retry."""

    memory_mb: Positive
    """Memory per node, in MB."""
    minutes: Positive
    """Longest time the job may take, in minutes."""


class Resources(Block):
    """What jobs ask of Slurm or Kubernetes. No result depends on it."""

    check_machine: bool = True
    """Compare disk, memory and GPUs with what the experiment needs before anything starts."""
    nodes: Positive = 1
    """Nodes per training; `execution.workers` are spread evenly over them."""
    train_retries: Count = 2
    """How often a killed or preempted training is started again; it continues."""
    worker_retries: Count = 3
    """How often lost workers are replaced within one training."""
    checkpoint_mirror: Place | None = None
    """URI of a folder for copies of checkpoints, such as s3://bucket/folder; null: no copies."""
    train: JobResources = JobResources(memory_mb=8000, minutes=720)
    """One training."""
    evaluate: JobResources = JobResources(memory_mb=8000, minutes=240)
    """One evaluation of one benchmark."""
    prepare: JobResources = JobResources(memory_mb=4000, minutes=240)
    """Any other job: download, unpack, convert, embed, tables."""


class Evaluate(Block):
    """Inference and metrics."""

    post_process_first: bool | None
    """Resize masks (true) or scores (false) to the image; null: true for panoptic output only."""
    object_threshold: Fraction
    """Lowest class probability of a panoptic segment."""
    overlap_threshold: Fraction
    """Share of its own area that a panoptic segment must win against the others."""
    instance_quality: Literal["probability", "logit"] = "probability"
    """What an instance's score takes of its mask: mean probability, or logit as OVRCOAT's code."""
    shuffle_vocabulary: bool
    """Control: permute the class names; an open-vocabulary model must fail on it."""
    max_images: Positive | None
    """Evaluate only so many images, from the first on; null: all."""
    overlays: Count
    """Pictures to draw per benchmark."""
    tf32: bool = False
    """Let a GPU of 2020 or later multiply float32 with ten bits of fraction: faster, less exact."""
    augmentation: Augmentation | None = None
    """Test-time augmentation of semantic benchmarks; null is off, as for all published scores."""


class AblationPart(Block):
    """A cell of the grid that differs from another in one key; others can start from it."""

    title: Title
    """What the table calls it."""
    start: Text
    """Cell it starts from: `full`, or a part above."""
    key: Text
    """The parameter that is changed, such as train.rc_weight."""
    value: Any
    """Its value in this cell."""
    also: Overrides = {}
    """Keys that have to change with it, such as the recipe of another method."""


class AblationSweep(Block):
    """Several values of one parameter."""

    title: Title
    """What the table calls it."""
    start: Text
    """Cell it starts from: `full`, or a part."""
    key: Text
    """The parameter that is swept, such as train.rc_weight."""
    values: Several[Any]
    """Its values, each a cell."""


class Ablations(Block):
    """The grid of ablations: cells that differ from one another in one parameter each."""

    full: Text
    """Variant that is the full model."""
    benchmarks: Several[Text] | None
    """Benchmarks to score; null: the experiment's."""
    seeds: Several[Count] | None
    """Seeds to train each cell with; null: the experiment's."""
    overrides: Overrides
    """Keys that differ from the rest of this file in all cells; a later file replaces them all."""
    parts: dict[Name, AblationPart]
    """Cells by name, each one change away from another; a later file replaces them all."""
    sweeps: dict[Name, AblationSweep]
    """Sweeps over one parameter, by name; a later file replaces them all."""


class Tracking(Block):
    """Where MLflow notes the runs; no result depends on it."""

    uri: Place
    """Address of the store or server; $MLFLOW_TRACKING_URI takes precedence."""
