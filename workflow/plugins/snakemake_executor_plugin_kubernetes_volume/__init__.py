"""Snakemake's Kubernetes executor where Snakemake and all pods mount one volume at one path.

The plugin itself declares that pods share no file system, and Snakemake then insists on moving
every file through object storage, whatever `shared-fs-usage` says. Data sets and checkpoints are
far more files than rules name, so here jobs share a volume, and only that declaration is replaced.
"""

from __future__ import annotations

from dataclasses import replace

from snakemake_executor_plugin_kubernetes import Executor, ExecutorSettings
from snakemake_executor_plugin_kubernetes import common_settings as _without_volume

__all__ = ["Executor", "ExecutorSettings", "common_settings"]

common_settings = replace(_without_volume, implies_no_shared_fs=False, job_deploy_sources=False)
