# The report: plots with their numbers beside them, pictures, provenance, and one page of all.
OTHERS = [variant for variant in PARAMS.variants if variant != BASELINE]
METHOD = (
    PARAMS.ablations.full
    if HAS_GRID and PARAMS.ablations.full in OTHERS
    else (OTHERS or [BASELINE])[0]
)
COMPARED = BASELINE is not None and METHOD != BASELINE
SEMANTIC = [b for b in BENCHMARKS if CATALOG.benchmarks[b].metric == "semantic"]
PICTURED = "A-150" if "A-150" in SEMANTIC else next(iter(SEMANTIC), None)
# The grid of the miniature world is short enough to belong to every report; another one is shown
# when it has been run.
WITH_ABLATIONS = HAS_GRID and (
    PARAMS.data.world is not None or Path(f"{GRID_RESULTS}/table.csv").exists()
)
ABLATION_TABLE = f"{GRID_RESULTS}/table.csv" if WITH_ABLATIONS else []
DRIFT_RUNS = (
    folders(
        [row.run for row in PARAMS.grid.rows if row.study == "parts"], ABLATION_SEEDS
    )
    if WITH_ABLATIONS
    else TRAINED_RUNS
)
SCORES = scores_of(RUNS, BENCHMARKS)
COUNTS = f"{RESULTS}/{METHOD}/seed{PARAMS.seeds[0]}/evaluation/{PICTURED}.statistics"
# A run of each method is diagnosed: the variants of the table, and one of the grid for each method.
DIAGNOSES = [
    f"{run}/diagnosis/{name}.json"
    for run in folders(
        [v for v in PARAMS.variants if not is_control(v)], PARAMS.seeds[:1]
    )
    for name in diagnosable(BENCHMARKS)
]
if WITH_ABLATIONS:
    DIAGNOSES += [
        f"{run}/diagnosis/{name}.json"
        for run in folders(grid_run_of_each_method(), ABLATION_SEEDS[:1])
        for name in diagnosable(ABLATION_BENCHMARKS)
    ]
MANIFESTS = [f"{run}/manifest.json" for run in TRAINED_RUNS]

# Section and inputs of each plot.
PLOTS = {"scores": ("Scores", SCORES)}
if TRAINED_RUNS:
    PLOTS["cost"] = ("Scores", [*SCORES, *MANIFESTS])
if SEMANTIC:
    PLOTS["protocols"] = ("Scores", SCORES)
    PLOTS["confusion"] = ("Classes", [COUNTS, *SCORES])
if SEMANTIC and DRIFT_RUNS:
    PLOTS["drift"] = ("Method", [f"{run}/drift.json" for run in DRIFT_RUNS])
if SEMANTIC and COMPARED:
    PLOTS["classes"] = ("Classes", SCORES)
if WITH_ABLATIONS and diagnosable(ABLATION_BENCHMARKS):
    PLOTS["ablations"] = ("Method", [])
for FIGURE in ("gap", "recall", "naming", "calibration", "words") if DIAGNOSES else ():
    PLOTS[FIGURE] = ("Diagnosis", DIAGNOSES)

for FIGURE, (SECTION, MADE_FROM) in PLOTS.items():

    rule:
        name:
            f"figure_{FIGURE}"
        input:
            results=MADE_FROM,
            ablations=(
                ABLATION_TABLE
                if FIGURE in ("cost", "drift", "ablations") or SECTION == "Diagnosis"
                else []
            ),
        output:
            picture=shown(f"{RESULTS}/figures/{FIGURE}.png", SECTION, FIGURE, "plot"),
            numbers=shown(f"{RESULTS}/figures/{FIGURE}.csv", SECTION, FIGURE, "numbers"),
        log:
            f"{RESULTS}/figures/{FIGURE}.log",
        conda:
            "../../envs/environment.yaml"
        params:
            figure=FIGURE,
            results=lambda wildcards, output: Path(output.picture).parents[1],
            variants=["--method", METHOD, "--baseline", BASELINE or METHOD],
            benchmark=PICTURED
            or (diagnosable([*BENCHMARKS, *ABLATION_BENCHMARKS]) or BENCHMARKS)[0],
            ablations=lambda wildcards, input: (
                ["--ablations", input.ablations] if input.ablations else []
            ),
            code=code_mark("report"),
        message:
            "Plot {params.figure}"
        shell:
            "maftp figure --code {params.code:q} {params.figure:q} {params.results:q} {params.variants:q}"
            " --benchmark {params.benchmark:q} {params.ablations:q}"
            " --out {output.picture:q} --numbers {output.numbers:q} --log {log:q}"


rule curves:
    input:
        f"{RUN}/history.csv",
    output:
        report(
            f"{RUN}/history.png",
            caption="../report/curves.rst",
            category="Training",
            labels={"run": "{variant}, seed {seed}", "form": "plot"},
        ),
    log:
        f"{RUN}/history.log",
    conda:
        "../../envs/environment.yaml"
    params:
        title="{variant}, seed {seed}",
        code=code_mark("report.training_plots"),
    message:
        "Plot the losses of {wildcards.variant}, seed {wildcards.seed}"
    shell:
        "maftp curves --code {params.code:q} {input:q} --title {params.title:q}"
        " --out {output:q} --log {log:q}"


rule drift:
    input:
        data=scored_data(PICTURED or BENCHMARKS[0]),
        text=lambda wildcards: scored_text(PICTURED, wildcards.variant),
        clip=clip_weights,
        weights=run_weights,
        training_names=layout.stamp_path(ROOT, TRAINING_NAMES),
    output:
        f"{RUN}/drift.json",
    log:
        f"{RUN}/drift.log",
    benchmark:
        f"{RUN}/drift.benchmark.tsv"
    conda:
        "../../envs/environment.yaml"
    resources:
        **needs(PARAMS.resources.evaluate, gpus=EVALUATION_GPUS),
    params:
        benchmark=PICTURED,
        code=code_mark("evaluation.drift"),
    message:
        "Measure the drift of CLIP in {wildcards.variant}, seed {wildcards.seed}"
    shell:
        "maftp drift --code {params.code:q} {params.benchmark:q} --variant {wildcards.variant:q} --seed {wildcards.seed:q}"
        " --weights {input.weights:q} --clip {input.clip:q} --text {input.text:q}"
        " --out {output:q} --log {log:q}"


rule gallery:
    input:
        method=weights_of(METHOD, PARAMS.seeds[0]),
        baseline=weights_of(BASELINE or METHOD, PARAMS.seeds[0]),
        statistics=COUNTS,
    output:
        report(
            directory(f"{RESULTS}/gallery"),
            patterns=["{kind}/{image}.png"],
            caption="../report/gallery.rst",
            category="Gallery",
            labels={"image": "{image}", "kind": "{kind}"},
        ),
    log:
        f"{RESULTS}/gallery.log",
    conda:
        "../../envs/environment.yaml"
    resources:
        **needs(PARAMS.resources.evaluate, gpus=EVALUATION_GPUS),
    params:
        benchmark=PICTURED,
        method=METHOD,
        baseline=BASELINE or METHOD,
        code=code_mark("evaluation.gallery"),
    message:
        "Draw the best, median and worst images of {params.benchmark}"
    shell:
        "maftp gallery --code {params.code:q} {params.benchmark:q} --method {params.method:q} --baseline {params.baseline:q}"
        " --weights {input.method:q} {input.baseline:q} --statistics {input.statistics:q}"
        " --out {output:q} --log {log:q}"


rule provenance:
    input:
        SCORES,
        MANIFESTS,
    output:
        report(
            f"{RESULTS}/provenance.csv",
            caption="../report/provenance.rst",
            category="What was run",
            labels={"table": "commit, data, versions, hardware"},
        ),
    log:
        f"{RESULTS}/provenance.log",
    conda:
        "../../envs/environment.yaml"
    params:
        results=lambda wildcards, output: Path(output[0]).parent,
        code=code_mark("report.provenance", "report.csv_file"),
    message:
        "Say what the runs were made of"
    shell:
        "maftp provenance --code {params.code:q} {params.results:q} --out {output:q} --log {log:q}"


rule resolved_params:
    output:
        report(
            f"{RESULTS}/params.yaml",
            caption="../report/params.rst",
            category="What was run",
            labels={"table": "parameters"},
        ),
    log:
        f"{RESULTS}/params.log",
    conda:
        "../../envs/environment.yaml"
    params:
        values=PARAMS.model_dump(mode="json"),
    message:
        "Write down all parameters"
    shell:
        "maftp params > {output:q} 2> {log:q}"


rule report_parts:
    input:
        [
            f"{RESULTS}/figures/{name}.{kind}"
            for name in PLOTS
            for kind in ("png", "csv")
        ],
        [f"{run}/history.png" for run in TRAINED_RUNS],
        f"{RESULTS}/table.csv",
        ABLATION_TABLE,
        f"{RESULTS}/gallery" if COMPARED and SEMANTIC else [],
        f"{RESULTS}/provenance.csv",
        f"{RESULTS}/params.yaml",
    output:
        touch(f"{RESULTS}/figures/complete"),
    log:
        f"{RESULTS}/figures/complete.log",
    conda:
        "../../envs/environment.yaml"
    message:
        "All parts of the report are there"
    shell:
        "echo complete > {log:q}"


# Snakemake makes the page itself; what has run says what is in it. Its scripts and styles are
# part of its package, so that neither making nor reading the page needs a network.
rule report_page:
    input:
        f"{RESULTS}/figures/complete",
    output:
        "results/report.html",
    log:
        "results/report.log",
    conda:
        "../../envs/environment.yaml"
    params:
        snakefile=workflow.main_snakefile,
        frozen=lambda wildcards: FROZEN,
    message:
        "Write the report"
    shell:
        "snakemake {input:q} --snakefile {params.snakefile:q} --report {output:q} --nolock --cores 1"
        " --configfile {params.frozen:q} > {log:q} 2>&1"
