# Archives to training and evaluation data: draw (miniature world only), download, unpack, convert.
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
            code=code_mark("miniworld.archives"),
        message:
            "Draw the miniature world and pack it as the official archives"
        shell:
            "maftp world --code {params.code:q} --log {log:q}"


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
        "maftp download {params.source:q} --log {log:q}"


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
        "maftp unpack {wildcards.source:q} --log {log:q}"


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
        catalog=lambda wildcards: catalog_entry("datasets", wildcards.dataset),
        code=code_mark("data.convert.run"),
        # moves when a converted file is lost
        repairs=lambda wildcards: inventory.repairs(
            wildcards.dataset, CATALOG.datasets[wildcards.dataset], ROOT
        ),
    message:
        "Convert {wildcards.dataset}"
    shell:
        "maftp convert --code {params.code:q} {wildcards.dataset:q} --jobs {threads:q} --log {log:q}"
