# From archives to results/table.csv. `snakemake --cores all results/table.csv` runs the experiment of
# params.yaml, the miniature world; `--configfile workflow/experiments/NAME.yaml` lays another over it.
from snakemake.utils import min_version

min_version("9.0")


configfile: "params.yaml"


report: "workflow/report/workflow.rst"


include: "workflow/rules/lock.smk"
include: "workflow/rules/common.smk"
include: "workflow/rules/start.smk"
include: "workflow/rules/inputs.smk"
include: "workflow/rules/resources.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/weights.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/diagnose.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/figures.smk"


# On a cluster these run where Snakemake does: nodes may have no way to the internet, and a table
# takes a second.
localrules:
    all,
    datasets,
    download,
    embeddings,
    experiment_table,
    report_parts,
    report_page,
    scores,
    table,


onstart:
    note_owner()
    stop_where_the_machine_lacks_something()


onsuccess:
    remove_spent_archives(
        NEEDED + [name for name in NEEDS.kin if is_converted(name)]
    )


onerror:
    # some may have been planned and not come about
    remove_spent_archives(DATASETS)


rule all:
    default_target: True
    input:
        "results/table.csv",


rule datasets:
    input:
        [layout.manifest_path(ROOT, name) for name in DATASETS],
    message:
        "All data sets of {EXPERIMENT} are converted"


# What DVC versions of the grid; nothing where an experiment has none.
rule grid:
    input:
        f"{GRID_RESULTS}/table.csv" if HAS_GRID else [],
    message:
        "The ablations of {EXPERIMENT} are there"


rule embeddings:
    input:
        expand(CLIP, clip=CLIPS),
        sorted(
            {
                text_embeddings(d, v)
                for d in NEEDED
                for v in [*PARAMS.variants, *ABLATION_RUNS]
            }
        ),
    message:
        "CLIP and the text embeddings of {EXPERIMENT} are there"
