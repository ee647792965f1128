# Tables of results.
RUNS = folders(PARAMS.variants, PARAMS.seeds)
TRAINED_RUNS = folders(TRAINED, PARAMS.seeds)
GRID_RUNS = folders(ABLATION_RUNS, ABLATION_SEEDS)
TRAINED_IN_GRID = folders(
    [
        run
        for run in ABLATION_RUNS
        if run not in PARAMS.variants and PARAMS.for_variant(run).weights is None
    ],
    ABLATION_SEEDS,
)


rule scores:
    input:
        scores_of(RUNS, BENCHMARKS),
        [f"{run}/history.csv" for run in TRAINED_RUNS],
    output:
        metrics=f"{RESULTS}/metrics.json",
        classes=f"{RESULTS}/scores.csv",
        history=f"{RESULTS}/history.csv",
    log:
        f"{RESULTS}/scores.log",
    conda:
        "../../envs/environment.yaml"
    params:
        runs=RUNS,
        code=code_mark("report.scores"),
    message:
        "Scores of {EXPERIMENT} for DVC"
    shell:
        "maftp scores --code {params.code:q} {params.runs:q} --metrics {output.metrics:q}"
        " --classes {output.classes:q} --history {output.history:q} --log {log:q}"


rule experiment_table:
    input:
        scores_of(RUNS, BENCHMARKS),
        statistics=statistics_of(RUNS, BENCHMARKS),
        # not read: the table comes when all that DVC shows is there
        metrics=f"{RESULTS}/metrics.json",
    output:
        csv=shown(f"{RESULTS}/table.csv", "Scores", "table", "numbers"),
        markdown=f"{RESULTS}/table.md",
        differences=f"{RESULTS}/differences.csv",
        cards=[f"{run}/README.md" for run in TRAINED_RUNS],
    log:
        table=f"{RESULTS}/table.log",
        mlflow=f"{RESULTS}/mlflow.log",
    conda:
        "../../envs/environment.yaml"
    resources:
        **needs(PARAMS.resources.prepare),
    params:
        runs=RUNS,
        baseline=BASELINE,
        code=code_mark("report.tables", "report.differences", "report.model_card"),
    message:
        "Table of {EXPERIMENT}"
    shell:
        "maftp table --code {params.code:q} {params.runs:q}"
        " --out {output.csv:q} --markdown {output.markdown:q}"
        " --differences {output.differences:q} --log {log.table:q}"
        # in one process, as starting MLflow takes longer than logging; it never fails the table
        " && (maftp runs log {params.runs:q} --table {output.csv:q} --log {log.mlflow:q} || true)"


rule table:
    input:
        csv=f"{RESULTS}/table.csv",
        markdown=f"{RESULTS}/table.md",
    output:
        csv="results/table.csv",
        markdown="results/table.md",
    log:
        "results/table.log",
    conda:
        "../../envs/environment.yaml"
    resources:
        **needs(PARAMS.resources.prepare),
    message:
        "The table of {EXPERIMENT} is results/table.csv"
    shell:
        "(cp {input.csv:q} {output.csv:q} && cp {input.markdown:q} {output.markdown:q}) 2> {log:q}"


rule experiment_ablations:
    input:
        scores=scores_of(GRID_RUNS, ABLATION_BENCHMARKS),
        statistics=statistics_of(GRID_RUNS, ABLATION_BENCHMARKS),
    output:
        csv=shown(f"{GRID_RESULTS}/table.csv", "Method", "ablation_table", "numbers"),
        markdown=f"{GRID_RESULTS}/table.md",
        cards=[f"{run}/README.md" for run in TRAINED_IN_GRID],
    log:
        f"{GRID_RESULTS}/table.log",
    conda:
        "../../envs/environment.yaml"
    params:
        results=RESULTS,
        grid=lambda wildcards: PARAMS.model_dump(mode="json")["ablations"],
        code=code_mark("report.ablations", "report.model_card"),
    message:
        "Ablations of {EXPERIMENT}"
    shell:
        "maftp ablations --code {params.code:q} {params.results:q}"
        " --out {output.csv:q} --markdown {output.markdown:q} --log {log:q}"


rule ablations:
    input:
        csv=f"{GRID_RESULTS}/table.csv",
        markdown=f"{GRID_RESULTS}/table.md",
    output:
        csv="results/ablations.csv",
        markdown="results/ablations.md",
    log:
        "results/ablations.log",
    conda:
        "../../envs/environment.yaml"
    message:
        "The ablations of {EXPERIMENT} are results/ablations.csv"
    shell:
        "(cp {input.csv:q} {output.csv:q} && cp {input.markdown:q} {output.markdown:q}) 2> {log:q}"
