# What jobs ask of a machine or a cluster. No rules.
from maftp.gpus import visible_gpus

# On this machine jobs share the GPUs that are here; each leases its own (`maftp.gpus`).
if workflow.local_exec and (GPUS := len(visible_gpus())):
    if "gpu" not in workflow.global_resources:
        workflow.register_resource("gpu", GPUS)


def needs(need, gpus=0, nodes=1):
    """Return the resources of a rule: memory and time that grow with every retry, and GPUs.

    Slurm takes `gres` and memory per node; `gpu` is the whole job's, and Kubernetes knows it too.
    """
    asked = {
        "mem_mb": lambda wildcards, attempt: need.memory_mb * attempt,
        "runtime": lambda wildcards, attempt: need.minutes * attempt,
    }
    if nodes > 1:
        asked["nodes"] = nodes
        # With GPUs Slurm would read `tasks` as tasks per GPU; it starts one per node by itself.
        asked |= {"gres": f"gpu:{gpus // nodes}"} if gpus else {"tasks": nodes}
    elif gpus:
        asked["gpu"] = gpus
    return asked


TRAINING_CPUS = PARAMS.execution.workers * PARAMS.execution.cpus_per_worker


def training_resources():
    """Return what a training asks for: cores, memory and GPUs, spread over its nodes."""
    nodes = PARAMS.resources.nodes
    gpus = PARAMS.execution.workers * PARAMS.execution.gpus_per_worker
    return needs(PARAMS.resources.train, gpus=gpus, nodes=nodes) | {
        "cpus_per_task": TRAINING_CPUS // nodes,
        "attempt": lambda wildcards, attempt: attempt,
    }
