# Parameters, paths and input functions. No rules.
import os
import re
import shlex
import sys
from pathlib import Path

from rich.filesize import decimal
from snakemake.exceptions import WorkflowError
from snakemake.settings.types import ExecMode

from maftp.config import load_params
from maftp.credentials import cleaned
from maftp.data import inventory, layout
from maftp.data.catalog import load_catalog, read_overlay
from maftp.data.download import registration_message
from maftp.data.removal import remove_archives
from maftp.data.unpack import in_place
from maftp.errors import MaftpError, ParamsError
from maftp.gpus import visible_gpus
from maftp.grid import FOLDER as GRID_FOLDER
from maftp.machine import check_machine
from maftp.needs import needs_of
from maftp.results import find_runs
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


HAS_GRID = PARAMS.ablations is not None and PARAMS.ablations.full in PARAMS.variants
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


def tell_what_needs_registration():
    """Say before anything starts which archives only the user can get; make all else first.

    The miniature world draws all of its archives.
    """
    for name in [] if PARAMS.data.world else SOURCES:
        entry = CATALOG.source(name)
        archives = layout.archives_dir(ROOT)
        there = (archives / entry.file).exists() or in_place(entry, ROOT)
        if entry.urls or there or inventory.is_needless(name, CATALOG, DATASETS, ROOT):
            continue
        without = [b for b in BENCHMARKS if name not in sources_of(b)]
        logger.warning(
            f"{registration_message(entry, archives, PARAM_FILES)}. All that does without it is "
            f"made first. To leave it out: benchmarks: [{', '.join(without)}]"
        )
        if workflow.execution_settings is not None:  # None in a dry run
            workflow.execution_settings.keep_going = True


def sources_of(benchmark):
    """Return the sources of the data that a benchmark scores."""
    return CATALOG.datasets[CATALOG.benchmarks[benchmark].dataset].sources


def stop_where_the_machine_lacks_something():
    """Compare this machine with the experiment's needs before the first job.

    Raises:
        WorkflowError: the experiment cannot be done here.
    """
    if not PARAMS.resources.check_machine:
        return
    findings = check_machine(
        PARAMS,
        CATALOG,
        Path(ROOT),
        sources=[] if PARAMS.data.world else [*SOURCES, *RELEASED],
        jobs_run_here=workflow.local_exec,
    )
    for finding in findings:
        logger.warning(finding.text)
    if any(finding.stops for finding in findings):
        raise WorkflowError(
            "this machine lacks what the experiment needs (above); "
            "`resources: {check_machine: false}` in a parameter file tries it all the same"
        )


def is_converted(dataset):
    """Tell whether a conversion was finished."""
    return layout.manifest_path(ROOT, dataset).exists()


def remove_spent_archives(datasets):
    """Remove what was downloaded for these data sets once all are converted, when told to."""
    if PARAMS.data.keep_archives:
        return
    removed = remove_archives(datasets, CATALOG, Path(ROOT))
    if removed:
        archives = "1 archive" if len(removed) == 1 else f"{len(removed)} archives"
        freed = decimal(sum(removed.values()))
        logger.info(f"removed {archives} after conversion: {freed} freed")


# On this machine jobs share the GPUs that are here; each leases its own (`maftp.gpus`).
if workflow.local_exec and (GPUS := len(visible_gpus())):
    if "gpu" not in workflow.global_resources:
        workflow.register_resource("gpu", GPUS)


def own_the_records():
    """Give Snakemake copies of its records that DVC linked into place: it writes them over.

    Raises:
        WorkflowError: results are here, but nothing says how they were made.
    """
    found = [file for file in RECORDS.rglob("*") if file.is_file()]
    for file in found:
        if file.stat().st_nlink > 1 or not os.access(file, os.W_OK):
            content = file.read_bytes()
            file.unlink()
            file.write_bytes(content)
    # Snakemake itself knows only after it has read the rules what it was asked for.
    touches = {"--touch", "-t"} & set(sys.argv)
    if found or touches or not Path(f"{RESULTS}/table.csv").exists():
        return
    raise WorkflowError(
        f"{RESULTS} is here without Snakemake's records of how it was made, so that no change of "
        "parameters would be noticed; fetch them with `dvc pull`, or take the results as made with "
        f"the present parameters: snakemake --touch --forceall {RESULTS}/table.csv"
    )


if workflow.exec_mode == ExecMode.DEFAULT:
    release_dead_lock()
    tell_what_needs_registration()
    own_the_records()


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


def content_of(name):
    """Return what the catalog says of the content of an archive, wherever it comes from.

    The miniature world draws its archives itself.
    """
    entry = CATALOG.obtainable(name)
    return None if PARAMS.data.world else {**entry.digests, "bytes": entry.bytes}


def obtained_unless_in_place(wildcards):
    """Return what says that an archive is there; nothing where its contents are without it."""
    entry, stamp = (
        CATALOG.source(wildcards.source),
        layout.obtained_path(ROOT, wildcards.source),
    )
    if stamp.exists() or (layout.archives_dir(ROOT) / entry.file).exists():
        return stamp
    return [] if in_place(entry, ROOT) else stamp


def unpacked(dataset):
    """Return what must be in place before a dataset is converted; class names alone if it is made."""
    return [
        layout.stamp_path(ROOT, source)
        for source in CATALOG.datasets[dataset].sources
        if not inventory.is_needless(source, CATALOG, DATASETS, ROOT)
    ]


def text_embeddings(dataset, variant):
    """Return the cached text embeddings of a dataset's vocabulary in a variant's sentences."""
    entry = CATALOG.datasets[dataset]
    clip = PARAMS.for_variant(variant).clip
    folder = TEXT.format(clip=clip_name(clip), templates=clip.templates)
    return f"{folder}/{entry.vocabulary}{'.all_rows' if entry.keep_row_zero else ''}.safetensors"


def clip_files(clip):
    """Return the local files that a CLIP is made of; a tag of open_clip is none."""
    weights = [clip.pretrained] if Path(clip.pretrained).suffix else []
    return weights + ([clip.config] if clip.config else [])


def clip_weights(wildcards):
    """Return the pretrained weights of a variant's CLIP."""
    return CLIP.format(clip=clip_name(PARAMS.for_variant(wildcards.variant).clip))


def catalog_entry(section, name):
    """Return an entry of the catalog, so that a job reruns when it changes.

    The miniature world draws its catalog itself; there the world's own parameters tell, but not of
    your own data.
    """
    entry = getattr(CATALOG, section)[name]
    drawn = PARAMS.data.world and name not in (OWN.get(section) or {})
    return None if drawn else entry.model_dump(mode="json")


def benchmarks_of(variant):
    """Return what a variant is scored on: runs of the grid alone on its benchmarks."""
    return BENCHMARKS if variant in PARAMS.variants else ABLATION_BENCHMARKS


def scores_of(runs, benchmarks):
    """Return the scores of the evaluations of some runs."""
    return [f"{run}/evaluation/{name}.json" for run in runs for name in benchmarks]


def statistics_of(runs, benchmarks):
    """Return the counts of the evaluations of some runs.

    They are folders, which have time stamps only, and these mean nothing after `dvc pull`; whenever
    one changes, the scores beside it do as well.
    """
    files = scores_of(runs, benchmarks)
    return [ancient(file.removesuffix(".json") + ".statistics") for file in files]


def scored_data(benchmark):
    """Return what tells that a benchmark's data set is converted."""
    return layout.manifest_path(ROOT, CATALOG.benchmarks[benchmark].dataset)


def scored_text(benchmark, variant):
    """Return the text embeddings that a variant is scored with on a benchmark."""
    return text_embeddings(CATALOG.benchmarks[benchmark].dataset, variant)


def data_of(benchmarks):
    """Return the input function that says which data sets benchmarks need; names may be wildcards."""
    return lambda wildcards: [
        scored_data(name.format(**wildcards)) for name in benchmarks
    ]


def text_of(benchmarks):
    """Return the input function of their text embeddings."""
    return lambda wildcards: [
        scored_text(name.format(**wildcards), wildcards.variant) for name in benchmarks
    ]


def entries_of(benchmarks):
    """Return the function of their entries in the catalog."""
    return lambda wildcards: [
        catalog_entry("benchmarks", name.format(**wildcards)) for name in benchmarks
    ]


def diagnosable(benchmarks):
    """Return those of some benchmarks that `maftp diagnose` knows the metric of."""
    return [b for b in benchmarks if CATALOG.benchmarks[b].metric != "instance"]


def is_control(variant):
    """Tell whether a variant has shuffled names, in which nothing is to be diagnosed."""
    return PARAMS.for_variant(variant).evaluate.shuffle_vocabulary


def grid_run_of_each_method():
    """Return a run of the grid for each method: the full model, and the last part of the others."""
    rows = [row for row in PARAMS.grid.rows if row.study == "parts"]
    found = {PARAMS.for_variant(row.run).model.name: row.run for row in rows}
    full = PARAMS.grid.rows[0].run
    return list((found | {PARAMS.for_variant(full).model.name: full}).values())


def shown(path, section, figure, form):
    """Mark a file for a section of the report; the caption is named after the figure."""
    return report(
        path,
        caption=f"../report/{figure}.rst",
        category=section,
        labels={"figure": figure.replace("_", " "), "form": form},
    )


def folders(variants, seeds):
    """Return the folders of runs; those of the grid lie apart."""
    return [str(run.path) for run in find_runs(Path(RESULTS), variants, seeds)]


def run_weights(wildcards):
    """Return the checkpoint a variant is evaluated with: its own, or the one its parameters name."""
    named = PARAMS.for_variant(wildcards.variant).weights
    if named is None:
        return (
            f"{folders([wildcards.variant], [wildcards.seed])[0]}/weights.safetensors"
        )
    return named.format(experiment=EXPERIMENT, seed=wildcards.seed)


def other_weights(variant, seed=0):
    """Return the checkpoints of other runs that the training of a variant takes."""
    return [
        str(path) for path in PARAMS.for_variant(variant).other_weights(seed).values()
    ]


def clip_of_released(variant):
    """Return the pretrained CLIP where released weights are a part that was trained over others."""
    params = PARAMS.for_variant(variant)
    return CLIP.format(clip=clip_name(params.clip)) if params.other_weights(0) else []


MODEL_KEYS = ("input.pixel_mean", "input.pixel_std", "clip", "model")
TRAINING_KEYS = ("data.train", "input.train", *MODEL_KEYS, "train")
EVALUATION_KEYS = ("input.test", *MODEL_KEYS, "evaluate")


def settings(keys, variant):
    """Return a variant's values under dotted keys, so that a job reruns when one changes."""
    values = PARAMS.for_variant(variant).model_dump(mode="json")
    found = {}
    for key in keys:
        value = values
        for part in key.split("."):
            value = value[part]
        found[key] = value
    return found


def needs(need, gpus=0, nodes=1):
    """Return the resources of a rule: memory and time that grow with every retry, and GPUs.

    Slurm takes `gres` and memory per node; `gpu` is the whole job's, and Kubernetes knows it too.
    """
    asked = {
        "mem_mb": lambda wildcards, attempt: need.memory_mb * attempt,
        "runtime": lambda wildcards, attempt: need.minutes * attempt,
    }
    if nodes > 1:
        asked["nodes"] = nodes
        # With GPUs Slurm would read `tasks` as tasks per GPU; it starts one per node by itself.
        asked |= {"gres": f"gpu:{gpus // nodes}"} if gpus else {"tasks": nodes}
    elif gpus:
        asked["gpu"] = gpus
    return asked


TRAINING_CPUS = PARAMS.execution.workers * PARAMS.execution.cpus_per_worker


def training_resources():
    """Return what a training asks for: cores, memory and GPUs, spread over its nodes."""
    nodes = PARAMS.resources.nodes
    gpus = PARAMS.execution.workers * PARAMS.execution.gpus_per_worker
    return needs(PARAMS.resources.train, gpus=gpus, nodes=nodes) | {
        "cpus_per_task": TRAINING_CPUS // nodes,
        "attempt": lambda wildcards, attempt: attempt,
    }
