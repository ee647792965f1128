# Where a model loses: part of the report, not of the table. Jobs are cut as evaluations are.
for SUFFIX, (FOLDER, NAMES) in JOBS.items():
    CHOSEN = NAMES if NAMES == ["{benchmark}"] else diagnosable(NAMES)
    OUT = f"{FOLDER}/diagnosis"

    rule:
        name:
            f"diagnose{SUFFIX}"
        input:
            data=data_of(CHOSEN),
            text=text_of(CHOSEN),
            weights=run_weights,
            training_names=layout.stamp_path(ROOT, TRAINING_NAMES),
        output:
            [f"{OUT}/{name}.json" for name in CHOSEN],
        log:
            f"{OUT}/{CHOSEN[0] if len(CHOSEN) == 1 else 'all'}.log",
        benchmark:
            f"{OUT}/{CHOSEN[0] if len(CHOSEN) == 1 else 'all'}.benchmark.tsv"
        conda:
            "../../envs/environment.yaml"
        resources:
            **needs(PARAMS.resources.evaluate, gpus=EVALUATION_GPUS),
        params:
            benchmarks=CHOSEN,
            folder=OUT,
            settings=lambda wildcards: settings(EVALUATION_KEYS, wildcards.variant),
            catalog=entries_of(CHOSEN),
            code=code_mark("evaluation.diagnosis"),
        message:
            "Diagnose {wildcards.variant}, seed {wildcards.seed}, on {params.benchmarks}"
        shell:
            "maftp diagnose --code {params.code:q} {params.benchmarks:q} --variant {wildcards.variant:q}"
            " --seed {wildcards.seed:q} --weights {input.weights:q} --text {input.text:q}"
            " --out {params.folder:q} --log {log:q}"
