# One training per variant and seed; continues from its last checkpoint when it was interrupted.
rule train:
    input:
        data=layout.manifest_path(ROOT, PARAMS.data.train),
        clip=clip_weights,
        text=lambda wildcards: text_embeddings(PARAMS.data.train, wildcards.variant),
        # proposing or earlier models, trained here or released
        others=lambda wildcards: other_weights(wildcards.variant, wildcards.seed),
        validation=[layout.manifest_path(ROOT, name) for name in VALIDATED],
    output:
        **({"best": f"{RUN}/best.safetensors"} if VALIDATION else {}),
        weights=f"{RUN}/weights.safetensors",
        history=f"{RUN}/history.csv",
        manifest=f"{RUN}/manifest.json",
    log:
        f"{RUN}/train.log",
    benchmark:
        f"{RUN}/train.benchmark.tsv"
    retries: PARAMS.resources.train_retries
    conda:
        "../../envs/environment.yaml"
    threads: TRAINING_CPUS
    resources:
        **training_resources(),
    params:
        folder=RUN,
        settings=lambda wildcards: settings(TRAINING_KEYS, wildcards.variant),
        code=code_mark(
            "training.worker", *(["training.validation"] if VALIDATION else [])
        ),
    message:
        "Train {wildcards.variant}, seed {wildcards.seed}"
    shell:
        # exec: a signal must reach maftp itself, not a shell in between
        # attempt: a mistake is not tried again, a lost worker is
        "exec maftp train --code {params.code:q} --variant {wildcards.variant:q} --seed {wildcards.seed:q}"
        " --clip {input.clip:q} --text {input.text:q} --out {params.folder:q} --log {log:q}"
        " --attempt {resources.attempt:q}"
