# What rules take: files, entries of the catalog, parameters. No rules.
from maftp.data import inventory
from maftp.data.unpack import in_place
from maftp.results import find_runs


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


def weights_of(variant, seed):
    """Return the checkpoint a variant is evaluated with: its own, or the one its parameters name."""
    named = PARAMS.for_variant(variant).weights
    if named is None:
        return f"{folders([variant], [seed])[0]}/weights.safetensors"
    return named.format(experiment=EXPERIMENT, seed=seed)


def run_weights(wildcards):
    """Return the checkpoint of a job's variant and seed."""
    return weights_of(wildcards.variant, wildcards.seed)


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
