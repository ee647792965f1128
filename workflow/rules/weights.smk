# CLIP, released weights, and the text embeddings of every vocabulary, which training never changes.
# Experiments share these files. `variant` only says which one's CLIP it is: were it a parameter, the
# next experiment, whose variants have other names, would make them anew, and train all anew after them.
rule clip:
    input:
        lambda wildcards: clip_files(PARAMS.for_variant(CLIPS[wildcards.clip]).clip),
    output:
        CLIP,
    log:
        "weights/clip/{clip}.log",
    conda:
        "../../envs/environment.yaml"
    resources:
        **needs(PARAMS.resources.prepare),
        variant=lambda wildcards: CLIPS[wildcards.clip],
    params:
        clip=lambda wildcards: settings(
            ("clip.model", "clip.config", "clip.pretrained"), CLIPS[wildcards.clip]
        ),
    message:
        "Fetch CLIP {wildcards.clip}"
    shell:
        "maftp clip --variant {resources.variant:q} --out {output:q} --log {log:q}"


rule released_weights:
    input:
        lambda wildcards: layout.obtained_path(ROOT, wildcards.released),
        clip=lambda wildcards: clip_of_released(RELEASED[wildcards.released]),
        proposals=lambda wildcards: other_weights(RELEASED[wildcards.released]),
    output:
        "weights/released/{released}.safetensors",
    log:
        "weights/released/{released}.log",
    conda:
        "../../envs/environment.yaml"
    resources:
        variant=lambda wildcards: RELEASED[wildcards.released],
    params:
        settings=lambda wildcards: settings(
            ("clip.model", "clip.config", "model"), RELEASED[wildcards.released]
        ),
        clip=lambda wildcards, input: ["--clip", input.clip] if input.clip else [],
    message:
        "Check and keep the released weights {wildcards.released}"
    shell:
        "maftp released-weights {wildcards.released:q} --variant {resources.variant:q}"
        " {params.clip:q} --out {output:q} --log {log:q}"


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
        code=code_mark("miniworld.clip"),
    message:
        "Train the miniature CLIP anew"
    shell:
        "maftp miniature-clip --code {params.code:q} --out {output:q} --log {log:q}"


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
        variant=lambda wildcards: CLIPS[wildcards.clip],
    params:
        vocabulary=lambda wildcards: layout.vocabulary_path(ROOT, wildcards.stem),
        rows=lambda wildcards: ["--keep-row-zero"] if wildcards.rows else [],
        code=code_mark("modeling.text_classifier", "modeling.clip_backbone"),
    message:
        "Embed the class names of {wildcards.stem}"
    shell:
        "maftp embed --code {params.code:q} {params.vocabulary:q} {params.rows:q}"
        " --variant {resources.variant:q} --clip {input.clip:q}"
        " --templates {wildcards.templates:q} --out {output:q} --log {log:q}"
