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
            world=PARAMS.model_dump(mode="json")["data"]["world"],
            code=code_mark("miniworld.archives"),
        message:
            "Draw the miniature world and pack it as the official archives"
        shell:
            "maftp world --code {params.code:q} --log {log:q}"


# The archive is not an output: Snakemake removes outputs before it makes them anew, and an archive may
# be the user's own. What stands in the catalog of its content decides whether it is looked at again.
rule download:
    input:
        PARAMS.data.catalog if PARAMS.data.world else [],
    output:
        layout.obtained_path(ROOT, "{obtainable}"),
    log:
        f"{ROOT}/logs/download.{{obtainable}}.log",
    conda:
        "../../envs/environment.yaml"
    resources:
        **needs(PARAMS.resources.prepare),
        downloads=1,
    params:
        file=lambda wildcards: CATALOG.obtainable(wildcards.obtainable).file,
        content=lambda wildcards: content_of(wildcards.obtainable),
    message:
        "Download {params.file}"
    shell:
        "maftp download {wildcards.obtainable:q} --log {log:q}"


rule unpack:
    input:
        obtained_unless_in_place,
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
    # Before trainings: beside one of them two cores may not be free to its end, and evaluations wait.
    priority: 1
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
