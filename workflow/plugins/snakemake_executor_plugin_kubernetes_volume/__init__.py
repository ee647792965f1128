"""Snakemake's Kubernetes executor where Snakemake and all pods mount one volume at one path.

The plugin itself declares that pods share no file system, and Snakemake then insists on moving
every file through object storage, whatever `shared-fs-usage` says. Data sets and checkpoints are
far more files than rules name, so here jobs share a volume, and that declaration is replaced. Pods
also get a `/dev/shm` that counts as their memory, for batches of loader processes: 64 MB are usual.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from kubernetes import client
from snakemake_executor_plugin_kubernetes import Executor as _Executor
from snakemake_executor_plugin_kubernetes import ExecutorSettings
from snakemake_executor_plugin_kubernetes import common_settings as _without_volume

__all__ = ["Executor", "ExecutorSettings", "common_settings"]

common_settings = replace(_without_volume, implies_no_shared_fs=False, job_deploy_sources=False)


class Executor(_Executor):
    """The plugin's executor, whose pods have shared memory."""

    @property
    def batchapi(self) -> client.BatchV1Api:
        """Return what creates jobs; the plugin sets it anew when it logs in again."""
        return self._batchapi

    @batchapi.setter
    def batchapi(self, api: client.BatchV1Api) -> None:
        create = api.create_namespaced_job

        def create_with_shared_memory(namespace: str, body: client.V1Job, **options: Any) -> Any:
            pod = body.spec.template.spec
            memory = client.V1EmptyDirVolumeSource(medium="Memory")
            pod.volumes.append(client.V1Volume(name="shm", empty_dir=memory))
            mount = client.V1VolumeMount(name="shm", mount_path="/dev/shm")  # noqa: S108
            pod.containers[0].volume_mounts.append(mount)
            return create(namespace, body, **options)

        api.create_namespaced_job = create_with_shared_memory
        self._batchapi = api
