"""The profiles: what they ask for, as the plugins themselves put it. No cluster is needed."""

from __future__ import annotations

import json
import re
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import yaml
from kubernetes import client
from kubernetes.utils.quantity import parse_quantity

from tests.workflow.conftest import BIN, ROOT, Checkout

pytestmark = pytest.mark.slow

PLAIN = {"str": str, "int": int, "bool": bool, "float": float, "datetime": str, "object": object}
PROFILES = ROOT / "workflow/profiles"
TRAINING = re.compile(r"train:\S*variant=maftp\b")


@pytest.fixture(autouse=True)
def plugins(monkeypatch):
    """Let Snakemake find our plugin, as the container does."""
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{ROOT / 'workflow/plugins'}")


class RecordingApi(BaseHTTPRequestHandler):
    """Takes every object of Kubernetes' API, keeps it, and says that jobs have failed."""

    created: list[tuple[str, dict[str, Any]]]

    def do_POST(self) -> None:  # noqa: N802
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.created.append((self.path, body))
        self._answer(body, status=201)

    def do_GET(self) -> None:  # noqa: N802
        self._answer({"items": []} if "/pods" in self.path else {"status": {"failed": 1}})

    def do_DELETE(self) -> None:  # noqa: N802
        self._answer({"status": "Success"})

    def _answer(self, body: dict[str, Any], status: int = 200) -> None:
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *arguments: Any) -> None:
        """Keep quiet."""


@pytest.fixture
def api(tmp_path, monkeypatch) -> Iterator[type[RecordingApi]]:
    """An API server that records, named in $KUBECONFIG."""
    handler = type("Handler", (RecordingApi,), {"created": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    config = {
        "apiVersion": "v1", "kind": "Config", "current-context": "here",
        "clusters": [{"name": "here", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
        "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me"}}],
        "users": [{"name": "me", "user": {"token": "none"}}],
    }  # fmt: skip
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(config))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    yield handler
    server.shutdown()
    thread.join()
    server.server_close()


def check_schema(value: Any, kind: str) -> None:
    """Check a value against Kubernetes' OpenAPI schema, as its Python client knows it."""
    if match := re.fullmatch(r"list\[(.+)\]", kind):
        assert isinstance(value, list)
        for item in value:
            check_schema(item, match[1])
    elif match := re.fullmatch(r"dict\(str, (.+)\)", kind):
        assert all(isinstance(key, str) for key in value)
        for item in value.values():
            check_schema(item, match[1])
    elif kind in PLAIN:
        assert isinstance(value, PLAIN[kind]), (value, kind)
    else:
        model = getattr(client, kind)
        names = {json_name: name for name, json_name in model.attribute_map.items()}
        assert set(value) <= set(names), f"{kind} has no {set(value) - set(names)}"
        client.ApiClient()._ApiClient__deserialize(value, kind)  # refuses what is missing
        for name, item in value.items():
            check_schema(item, model.openapi_types[names[name]])


def test_kubernetes_jobs_are_valid_and_ask_for_what_params_say(finished, api, tmp_path):
    path = tmp_path / "copy"
    finished.copy(path)
    shutil.rmtree(path / "results")
    gpus = {
        "execution": {"workers": 2, "gpus_per_worker": 1, "cpus_per_worker": 3},
        "resources": {"train": {"memory_mb": 5000, "minutes": 30}},
    }
    (path / "gpus.yaml").write_text(yaml.safe_dump(gpus))
    done = Checkout(path).run(  # without --cores, which would cut the jobs' own down to them
        BIN / "snakemake", "results/table.csv", "--workflow-profile", PROFILES / "kubernetes",
        "--retries", "0", "--configfile", "smoke.yaml", "gpus.yaml", ok=False,
    )  # fmt: skip
    jobs = [body for place, body in api.created if place.endswith("/jobs")]
    assert jobs, done.stdout + done.stderr
    for body in jobs:
        check_schema(body, "V1Job")
    trainings = [body for body in jobs if TRAINING.search(json.dumps(body))]
    assert len(trainings) >= 1
    pod = trainings[0]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    asked = container["resources"]["requests"]
    assert asked["nvidia.com/gpu"] == "2"
    assert parse_quantity(asked["memory"]) == 5000 * 10**6
    assert float(parse_quantity(asked["cpu"])) == pytest.approx(6 * 0.95, abs=0.001)
    assert container["image"].startswith("registry.example.org/maftp")
    assert container["args"][1].startswith("cd /maftp &&")
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    volumes = {volume.pop("name"): volume for volume in pod["volumes"]}
    assert mounts["maftp"] == "/maftp" and mounts["shm"] == "/dev/shm"
    assert volumes["maftp"] == {"persistentVolumeClaim": {"claimName": "maftp"}}
    assert volumes["shm"] == {"emptyDir": {"medium": "Memory"}}


@pytest.mark.parametrize("profile", ["default", "slurm", "kubernetes"])
def test_snakemake_understands_every_key(checkout, profile):
    done = checkout.snakemake(
        "-n", "results/table.csv", "--workflow-profile", str(PROFILES / profile),
        params=["smoke.yaml"],
    )  # fmt: skip
    assert "train" in done.stdout + done.stderr


def test_what_slurm_is_asked_for(monkeypatch):
    """The plugin's own command line for trainings on one node and on two, with and without GPUs."""
    from snakemake_executor_plugin_slurm.submit_string import get_submit_command
    from snakemake_executor_plugin_slurm.utils import set_gres_string

    needs = needs_of_the_workflow()

    def submitted(gpus: int, nodes: int, cpus_per_task: int) -> str:
        job = SlurmJob(needs, gpus=gpus, nodes=nodes, cpus_per_task=cpus_per_task)
        values = {"run_uuid": "x", "slurm_logfile": "log", "comment_str": "", "workdir": None}
        values |= {"account": "", "partition": ""}
        return get_submit_command(job, values) + set_gres_string(job)

    one = submitted(gpus=0, nodes=1, cpus_per_task=4)
    assert "--ntasks=1" in one and "--cpus-per-task=4" in one and "--nodes" not in one
    assert "--mem 2000" in one and "-t 20" in one  # twice as much at the second attempt
    assert "--gpus=8" in submitted(gpus=8, nodes=1, cpus_per_task=72)
    two = submitted(gpus=0, nodes=2, cpus_per_task=2)
    assert "--nodes=2" in two and "--ntasks=2" in two and "--cpus-per-task=2" in two
    two_with = submitted(gpus=16, nodes=2, cpus_per_task=72)
    assert "--nodes=2" in two_with and "--gres=gpu:8" in two_with
    assert "--ntasks" not in two_with and "--gpus=" not in two_with


class SlurmJob:
    """What the plugin reads of a job, at its second attempt."""

    threads = 1

    def __init__(self, needs, *, gpus: int, nodes: int, cpus_per_task: int) -> None:
        need = type("Need", (), {"memory_mb": 1000, "minutes": 10})
        asked = needs(need, gpus=gpus, nodes=nodes) | {"cpus_per_task": cpus_per_task}
        values = {n: v(None, 2) if callable(v) else v for n, v in asked.items()}
        self.resources = Resources(values)


class Resources(dict):
    """Values by key and by attribute, as Snakemake has them."""

    __getattr__ = dict.__getitem__


def needs_of_the_workflow():
    """Return the function `needs` of resources.smk."""
    text = (ROOT / "workflow/rules/resources.smk").read_text()
    namespace: dict[str, Any] = {}
    exec(text[text.index("def needs(") :].split("\n\n\n")[0], namespace)
    return namespace["needs"]
