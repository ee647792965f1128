# Parameters and catalog, and the names that follow from them. No rules.
import os
import re
import shlex
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.settings.types import ExecMode

from maftp.config import load_params
from maftp.credentials import cleaned
from maftp.data import layout
from maftp.data.catalog import load_catalog, read_overlay
from maftp.errors import MaftpError, ParamsError
from maftp.grid import FOLDER as GRID_FOLDER
from maftp.needs import missing_files, needs_of
from maftp.tracking.source import code_digest, code_mark
from maftp.yaml_file import freeze, is_frozen

if workflow.config_settings.config:
    raise WorkflowError(
        "--config is not taken: a run's values stand in a file; "
        "write them to a .yaml file and name it with --configfile"
    )

RECORDS = Path(".snakemake/metadata")
PARAM_FILES = [Path("params.yaml"), *workflow.overwrite_configfiles]
if is_frozen(PARAM_FILES[-1]):  # of the run that this process does a part of
    PARAM_FILES = PARAM_FILES[-1:]


def read_params():
    """Return the checked parameters and the catalog they name."""
    try:
        params = load_params(*PARAM_FILES)
        if not params.variants:
            raise ParamsError(
                "variants: there is none; name at least one row of the table"
            )
        overlay = params.data.catalog
        # The miniature world writes its overlay as the first job.
        drawn_later = params.data.world is not None and not Path(overlay).exists()
        catalog = load_catalog(None if drawn_later else overlay, params.data.own)
        grid = params.ablations
        for name in [*params.benchmarks, *((grid and grid.benchmarks) or [])]:
            catalog.benchmark(name)
        needs_of(params, catalog)
    except MaftpError as error:
        raise WorkflowError(str(error)) from None
    return params, catalog


PARAMS, CATALOG = read_params()


def refuse_missing_files():
    """Say in a sentence what Snakemake would say with all that depends on it; data need no weights.

    Raises:
        WorkflowError: parameters name a file that is not there and that no job makes.
    """
    # only Snakemake knows what is in a bucket
    in_bucket = workflow.storage_settings.default_storage_provider is not None
    missing = [] if in_bucket else missing_files(PARAMS, CATALOG)
    if missing and "datasets" not in sys.argv:
        raise WorkflowError("\n".join(missing))


if workflow.exec_mode == ExecMode.DEFAULT:
    refuse_missing_files()


def frozen_params():
    """Write down parameters and catalog as they are now, and return the file of the parameters.

    They may be edited while jobs wait: all jobs of this run, on other nodes too, read what was
    planned. A catalog that the run draws itself comes later. The name tells the code as well.
    """
    code = code_digest("cli", "training.worker", "training.validation")
    if is_frozen(PARAM_FILES[0]):
        if code not in PARAM_FILES[0].name:
            raise WorkflowError(
                "the code was edited since this run began; start snakemake again, "
                "it redoes what the edit touches"
            )
        return PARAM_FILES[0]
    values = cleaned(PARAMS.model_dump(mode="json"))
    if PARAMS.data.catalog is not None and PARAMS.data.world is None:
        catalog = freeze(
            CATALOG.model_dump(mode="json"),
            Path("results"),
            name="catalog",
        )
        values["data"]["catalog"] = str(catalog)
    if PARAMS.data.own is not None:
        own = freeze(read_overlay(Path(PARAMS.data.own)), Path("results"), name="own")
        values["data"]["own"] = str(own)
    return freeze(values, Path("results"), name=f"params-{code}")


# Addresses with passwords reach the jobs through their environment, not through a file.
for NAME, ADDRESS in {
    "MLFLOW_TRACKING_URI": PARAMS.tracking.uri,
    "MAFTP_CHECKPOINT_MIRROR": PARAMS.resources.checkpoint_mirror,
}.items():
    if cleaned(ADDRESS) != ADDRESS:
        os.environ.setdefault(NAME, ADDRESS)

# The file is no `params` of the rules, so that what a rule does not name reruns nothing.
FROZEN = frozen_params()
workflow.config_settings.configfiles = [FROZEN.absolute()]
# Commands are found although .venv is not activated.
shell.prefix(
    f"export MAFTP_PARAMS={shlex.quote(str(FROZEN))}"
    f" PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH; "
)
EXPERIMENT = PARAMS.experiment
BENCHMARKS = list(PARAMS.benchmarks)
BASELINE = PARAMS.compared_with
ROOT = layout.datasets_root(PARAMS.data.root)
ROOT = ROOT.relative_to(Path.cwd()) if ROOT.is_relative_to(Path.cwd()) else ROOT
RESULTS = f"results/{EXPERIMENT}"
GRID_RESULTS = f"results/{GRID_FOLDER}/{EXPERIMENT}"
RUN = "results/{home}/{variant}/seed{seed}"
CLIP = "weights/clip/{clip}.safetensors"
# Experiments on the official data share their embeddings; other data may mean other words.
WORDS = EXPERIMENT if PARAMS.data.catalog or PARAMS.data.own else "official"
OWN = read_overlay(Path(PARAMS.data.own)) if PARAMS.data.own else {}
TEXT = f"weights/text/{{clip}}-{{templates}}templates/{WORDS}"


def clip_name(clip):
    """Return the name of the files of a CLIP."""
    return "-".join((re.sub(r"[^\w.-]", "_", clip.model), Path(clip.pretrained).stem))


def clips_of_variants():
    """Return a variant by the name of each CLIP that is wanted.

    Raises:
        WorkflowError: two of them would share files.
    """
    found = {}
    for variant in [*PARAMS.variants, *ABLATION_RUNS]:
        clip = PARAMS.for_variant(variant).clip
        first = found.setdefault(clip_name(clip), variant)
        known = PARAMS.for_variant(first).clip
        if (known.config, known.pretrained) != (clip.config, clip.pretrained):
            raise WorkflowError(
                f"clip.pretrained: {known.pretrained} of {first} and {clip.pretrained} of {variant}"
                f" have the same name, {clip_name(clip)}; rename one of the files"
            )
    return found


HAS_GRID = PARAMS.has_grid
ABLATION_RUNS = list(PARAMS.grid.runs) if HAS_GRID else []
CLIPS = clips_of_variants()
ABLATION_BENCHMARKS = list(
    (PARAMS.ablations.benchmarks if HAS_GRID else None) or BENCHMARKS
)
ABLATION_SEEDS = list((PARAMS.ablations.seeds if HAS_GRID else None) or PARAMS.seeds)
TRAINED = [v for v in PARAMS.variants if PARAMS.for_variant(v).weights is None]
VALIDATION = PARAMS.train.validation if TRAINED else None
NEEDS = needs_of(PARAMS, CATALOG)
SCORED, NEEDED, VALIDATED = NEEDS.scored, NEEDS.datasets, NEEDS.validated
SOURCES, RELEASED, TRAINING_NAMES = NEEDS.sources, NEEDS.released, NEEDS.training_names
DATASETS = NEEDED + NEEDS.kin


wildcard_constraints:
    home="|".join(map(re.escape, [EXPERIMENT, f"{GRID_FOLDER}/{EXPERIMENT}"])),
    variant="|".join(map(re.escape, dict.fromkeys([*PARAMS.variants, *ABLATION_RUNS]))),
    seed=r"\d+",
    templates=r"\d+",
    clip="|".join(map(re.escape, CLIPS)),
    benchmark="|".join(map(re.escape, SCORED)),
    source="|".join(map(re.escape, SOURCES)),
    dataset="|".join(map(re.escape, DATASETS)),
    stem="|".join(re.escape(CATALOG.datasets[name].vocabulary) for name in DATASETS),
    obtainable="|".join(map(re.escape, [*SOURCES, *RELEASED])),
    rows=r"(\.all_rows)?",
    released="|".join(map(re.escape, CATALOG.weights)),
