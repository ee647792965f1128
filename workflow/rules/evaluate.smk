# Scores of each variant and seed: a job per benchmark, or one job for all benchmarks of a run where
# they are small. The names of the training classes tell which classes were seen.
EVALUATION_GPUS = min(PARAMS.execution.gpus_per_worker, 1)
GRID_HOME = f"{GRID_FOLDER}/{EXPERIMENT}"
JOBS = {"": (RUN, ["{benchmark}"])}
if PARAMS.execution.evaluate_together:
    # The grid may ask for more benchmarks, of cells that are variants as well.
    MORE = ABLATION_BENCHMARKS if {*ABLATION_RUNS} & {*PARAMS.variants} else []
    JOBS = {
        "": (RUN.replace("{home}", EXPERIMENT), list(dict.fromkeys(BENCHMARKS + MORE))),
        "_grid": (RUN.replace("{home}", GRID_HOME), ABLATION_BENCHMARKS),
    }

for SUFFIX, (FOLDER, NAMES) in JOBS.items():
    OUT = f"{FOLDER}/evaluation"

    rule:
        name:
            f"evaluate{SUFFIX}"
        input:
            data=data_of(NAMES),
            text=text_of(NAMES),
            weights=run_weights,
            training_names=layout.stamp_path(ROOT, TRAINING_NAMES),
        output:
            scores=[f"{OUT}/{name}.json" for name in NAMES],
            overlays=[directory(f"{OUT}/{name}") for name in NAMES],
            statistics=[directory(f"{OUT}/{name}.statistics") for name in NAMES],
        log:
            f"{OUT}/{NAMES[0] if len(NAMES) == 1 else 'all'}.log",
        benchmark:
            f"{OUT}/{NAMES[0] if len(NAMES) == 1 else 'all'}.benchmark.tsv"
        conda:
            "../../envs/environment.yaml"
        threads: PARAMS.execution.loader_workers + 1
        resources:
            **needs(PARAMS.resources.evaluate, gpus=EVALUATION_GPUS),
        params:
            benchmarks=NAMES,
            folder=OUT,
            settings=lambda wildcards: settings(EVALUATION_KEYS, wildcards.variant),
            catalog=entries_of(NAMES),
            code=code_mark("evaluation.runner"),
        message:
            "Evaluate {wildcards.variant}, seed {wildcards.seed}, on "
            + (NAMES[0] if len(NAMES) == 1 else f"{len(NAMES)} benchmarks").replace(
                "{", "{wildcards."
            )
        shell:
            "maftp evaluate --code {params.code:q} {params.benchmarks:q} --variant {wildcards.variant:q}"
            " --seed {wildcards.seed:q} --weights {input.weights:q} --text {input.text:q}"
            " --out {params.folder:q} --log {log:q}"
