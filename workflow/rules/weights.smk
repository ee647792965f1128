# CLIP, released weights, and the text embeddings of every vocabulary, which training never changes.
rule clip:
    input:
        PARAMS.clip.pretrained if Path(PARAMS.clip.pretrained).suffix else [],
        PARAMS.clip.config or [],
    output:
        CLIP,
    log:
        f"weights/clip/{CLIP_NAME}.log",
    conda:
        "../../envs/environment.yaml"
    resources:
        **needs(PARAMS.resources.prepare),
    params:
        clip=settings("clip.model", "clip.config", "clip.pretrained"),
    message:
        "Fetch CLIP {CLIP_NAME}"
    shell:
        "maftp clip --out {output} --log {log}"


rule released_weights:
    input:
        lambda wildcards: archive(wildcards.released),
    output:
        "weights/released/{released}.safetensors",
    log:
        "weights/released/{released}.log",
    conda:
        "../../envs/environment.yaml"
    params:
        variant=lambda wildcards: RELEASED[wildcards.released],
        settings=lambda wildcards: settings(
            "clip", "model", variant=RELEASED[wildcards.released]
        ),
    message:
        "Check and keep the released weights {wildcards.released}"
    shell:
        "maftp released-weights {wildcards.released} --variant {params.variant}"
        " --out {output} --log {log}"


rule retrain_miniature_clip:
    output:
        "weights/clip/retrained.safetensors",
    log:
        "weights/clip/retrained.log",
    conda:
        "../../envs/environment.yaml"
    threads: 2
    resources:
        **needs(PARAMS.resources.prepare),
    params:
        code=source_digest("miniworld"),
    message:
        "Train the miniature CLIP anew"
    shell:
        "maftp miniature-clip --out {output} --log {log}"


rule text_embeddings:
    input:
        clip=CLIP,
        vocabulary=lambda wildcards: layout.stamp_path(
            ROOT, CATALOG.source_of_vocabulary(wildcards.stem)
        ),
    output:
        f"{TEXT}/{{stem}}{{rows}}.safetensors",
    log:
        f"{TEXT}/{{stem}}{{rows}}.log",
    conda:
        "../../envs/environment.yaml"
    resources:
        **needs(PARAMS.resources.prepare),
    params:
        vocabulary=lambda wildcards: layout.vocabulary_path(ROOT, wildcards.stem),
        rows=lambda wildcards: "--keep-row-zero" if wildcards.rows else "",
        code=source_digest("modeling/text_classifier", "modeling/clip_backbone"),
    message:
        "Embed the class names of {wildcards.stem}"
    shell:
        "maftp embed {params.vocabulary} {params.rows}"
        " --clip {input.clip}"
        " --templates {wildcards.templates} --out {output} --log {log}"
