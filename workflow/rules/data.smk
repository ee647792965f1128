# Archives to training and evaluation data: draw (miniature world only), download, unpack, convert.
WORLD_MODULES = [
    *("ade20k", "archives", "coco", "label_spaces", "packing", "pascal"),
    *("scenes", "splits", "sprites", "textures", "words", "words.yaml"),
]

if PARAMS.data.world:

    rule world:
        output:
            PARAMS.data.catalog,
        log:
            f"{ROOT}/logs/world.log",
        conda:
            "../../envs/environment.yaml"
        resources:
            **needs(PARAMS.resources.prepare),
        params:
            world=settings("data.world"),
            code=source_digest(*(f"miniworld/{name}" for name in WORLD_MODULES)),
        message:
            "Draw the miniature world and pack it as the official archives"
        shell:
            "maftp world --log {log}"


rule download:
    input:
        PARAMS.data.catalog or [],
    output:
        f"{layout.archives_dir(ROOT)}/{{file}}",
    log:
        f"{ROOT}/logs/download.{{file}}.log",
    conda:
        "../../envs/environment.yaml"
    resources:
        **needs(PARAMS.resources.prepare),
        downloads=1,
    params:
        source=lambda wildcards: SOURCE_OF[wildcards.file],
    message:
        "Download {wildcards.file}"
    shell:
        "maftp download {params.source} --log {log}"


rule unpack:
    input:
        archive_unless_in_place,
    output:
        layout.stamp_path(ROOT, "{source}"),
    log:
        f"{ROOT}/logs/unpack.{{source}}.log",
    conda:
        "../../envs/environment.yaml"
    resources:
        **needs(PARAMS.resources.prepare),
    message:
        "Unpack {wildcards.source}"
    shell:
        "maftp unpack {wildcards.source} --log {log}"


rule convert:
    input:
        lambda wildcards: unpacked(wildcards.dataset),
    output:
        layout.manifest_path(ROOT, "{dataset}"),
    log:
        f"{ROOT}/logs/convert.{{dataset}}.log",
    conda:
        "../../envs/environment.yaml"
    threads: 2
    resources:
        **needs(PARAMS.resources.prepare),
    params:
        code=source_digest("data/convert", "data/vocabulary"),
        # moves when a converted file is lost
        repairs=lambda wildcards: inventory.repairs(
            wildcards.dataset, CATALOG.datasets[wildcards.dataset], ROOT
        ),
    message:
        "Convert {wildcards.dataset}"
    shell:
        "maftp convert {wildcards.dataset} --jobs {threads} --log {log}"
