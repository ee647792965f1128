# One evaluation per variant, seed and benchmark; names of training tell which classes were seen.
EVALUATION_GPUS = min(PARAMS.execution.gpus_per_worker, 1)


rule evaluate:
    input:
        data=lambda wildcards: scored_data(wildcards.benchmark),
        text=lambda wildcards: scored_text(wildcards.benchmark, wildcards.variant),
        weights=run_weights,
        training_names=layout.stamp_path(ROOT, TRAINING_NAMES),
    output:
        scores=f"{RUN}/evaluation/{{benchmark}}.json",
        overlays=directory(f"{RUN}/evaluation/{{benchmark}}"),
        statistics=directory(f"{RUN}/evaluation/{{benchmark}}.statistics"),
    log:
        f"{RUN}/evaluation/{{benchmark}}.log",
    benchmark:
        f"{RUN}/evaluation/{{benchmark}}.benchmark.tsv"
    conda:
        "../../envs/environment.yaml"
    threads: PARAMS.execution.loader_workers + 1
    resources:
        **needs(PARAMS.resources.evaluate, gpus=EVALUATION_GPUS),
        first_gpu=EVALUATION_GPUS,
    params:
        settings=lambda wildcards: settings(EVALUATION_KEYS, wildcards.variant),
        catalog=lambda wildcards: catalog_entry("benchmarks", wildcards.benchmark),
        code=code_mark("evaluation.runner"),
    message:
        "Evaluate {wildcards.variant}, seed {wildcards.seed}, on {wildcards.benchmark}"
    shell:
        "maftp evaluate --code {params.code:q} {wildcards.benchmark:q} --variant {wildcards.variant:q}"
        " --seed {wildcards.seed:q} --weights {input.weights:q} --text {input.text:q}"
        " --out {output.scores:q} --overlays {output.overlays:q}"
        " --statistics {output.statistics:q} --log {log:q}"
