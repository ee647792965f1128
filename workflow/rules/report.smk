# Tables of results.
RUNS = [
    f"{RESULTS}/{variant}/seed{seed}"
    for variant in PARAMS.variants
    for seed in PARAMS.seeds
]


rule experiment_table:
    input:
        [
            f"{run}/evaluation/{benchmark}.json"
            for run in RUNS
            for benchmark in BENCHMARKS
        ],
    output:
        csv=f"{RESULTS}/table.csv",
        markdown=f"{RESULTS}/table.md",
    log:
        f"{RESULTS}/table.log",
    conda:
        "../../envs/environment.yaml"
    resources:
        **needs(PARAMS.resources.prepare),
    params:
        runs=RUNS,
        code=source_digest("report/tables"),
    message:
        "Table of {EXPERIMENT}"
    shell:
        "maftp table {params.runs}"
        " --out {output.csv} --markdown {output.markdown} --log {log}"


rule table:
    input:
        sorted({f"{RESULTS}/table.csv", *map(str, Path("results").glob("*/table.csv"))}),
    output:
        csv="results/table.csv",
        markdown="results/table.md",
    log:
        "results/table.log",
    conda:
        "../../envs/environment.yaml"
    resources:
        **needs(PARAMS.resources.prepare),
    params:
        code=source_digest("report/tables"),
    message:
        "Table of all experiments so far"
    shell:
        "maftp merge-tables {input} --out {output.csv} --markdown {output.markdown} --log {log}"
