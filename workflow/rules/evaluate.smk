# One evaluation per variant, seed and benchmark.
rule evaluate:
    input:
        data=lambda wildcards: layout.manifest_path(
            ROOT, CATALOG.benchmarks[wildcards.benchmark].dataset
        ),
        text=lambda wildcards: text_embeddings(
            CATALOG.benchmarks[wildcards.benchmark].dataset, wildcards.variant
        ),
        weights=run_weights,
        # tells seen classes from unseen ones
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
    threads: 1
    resources:
        **needs(PARAMS.resources.evaluate, gpus=min(PARAMS.execution.gpus_per_worker, 1)),
    params:
        settings=lambda wildcards: settings(
            "input.test",
            "input.pixel_mean",
            "input.pixel_std",
            "clip",
            "model",
            "evaluate",
            variant=wildcards.variant,
        ),
        code=source_digest(
            "modeling",
            "ops",
            "evaluation",
            "report/figures",
            "data/mapper",
            "data/images",
        ),
    message:
        "Evaluate {wildcards.variant}, seed {wildcards.seed}, on {wildcards.benchmark}"
    shell:
        "maftp evaluate {wildcards.benchmark} --variant {wildcards.variant}"
        " --seed {wildcards.seed} --weights {input.weights} --text {input.text}"
        " --out {output.scores} --overlays {output.overlays}"
        " --statistics {output.statistics} --log {log}"
