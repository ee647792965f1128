"""The package as a wheel, in an environment and a folder that have no checkout."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from importlib import metadata
from pathlib import Path

import mlflow
import numpy as np
import pytest
import yaml
from mlflow.models import infer_signature
from PIL import Image

from maftp.tracking import served_model

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
DOCKERFILE = (ROOT / "envs" / "Dockerfile").read_text()

SCRIPT = """
import json, pathlib, sys
import maftp, mlflow, numpy as np
from PIL import Image
from maftp.api import EXPERIMENTS, experiment_params
weights, model, image = map(pathlib.Path, sys.argv[1:])
pixels = np.asarray(Image.open(image))
words = ["sky", "car"]
loaded = maftp.api.load(weights).model
served = mlflow.pyfunc.load_model(model)
print(json.dumps({
    "package": maftp.__file__,
    "experiments": {f.stem: experiment_params(f.stem).experiment for f in EXPERIMENTS.iterdir()},
    "typed": pathlib.Path(maftp.__file__).with_name("py.typed").is_file(),
    "miniature": type(maftp.load_model("miniature")).__name__,
    "same": bool((served.predict(pixels[None], params={"vocabulary": words})[0]
                  == maftp.segment(loaded, pixels, words).labels).all()),
}))
"""

MAIN = "import sys; from maftp.cli import main; sys.exit(main())"


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> Path:
    """An interpreter with the wheel of what the image copies, and this environment's libraries."""
    folder = tmp_path_factory.mktemp("wheel")
    (folder / "source").mkdir()
    for line in re.findall(r"^COPY (.+)$", DOCKERFILE, flags=re.M):
        *sources, target = line.split()
        for source in sources:
            place = folder / "source" / (target if (ROOT / source).is_dir() else source)
            if (ROOT / source).is_dir():
                ignored = shutil.ignore_patterns("__pycache__")
                shutil.copytree(ROOT / source, place, symlinks=True, ignore=ignored)
            else:
                shutil.copy(ROOT / source, place)
    venv.create(folder / "venv", with_pip=False)
    python = folder / "venv" / "bin" / "python"
    site = Path(sysconfig.get_path("purelib", vars={"base": str(folder / "venv")}))
    # A path file's lines are folders only, so that the editable checkout stays out.
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--disable-pip-version-check",
        "-q",
        "--python",
        str(python),
    ]
    made = ["install", "--no-deps", "--no-build-isolation", str(folder / "source")]
    subprocess.run([*pip, *made], check=True)
    return python


def run(*command, cwd: Path, **environment: str) -> str:
    plain = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | environment
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env=plain, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_models_pictures_and_experiments_need_no_checkout(python, weights, folder, tmp_path):
    model = tmp_path / "model"
    manifest = json.loads(weights.with_name("manifest.json").read_text())
    params = tmp_path / "params.yaml"
    params.write_text(yaml.safe_dump(manifest["params"]))
    mlflow.pyfunc.save_model(
        model,
        python_model=served_model.__file__,
        pip_requirements=[],
        signature=infer_signature(np.zeros((1, 60, 90, 3), np.uint8), params={"vocabulary": ["a"]}),
        artifacts={"weights": str(weights), "params": str(params)},
    )
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    picture = folder / "one.png"
    said = json.loads(run(python, "-c", SCRIPT, weights, model, picture, cwd=elsewhere))
    assert Path(said.pop("package")).is_relative_to(python.parents[1])
    names = {path.stem for path in (ROOT / "workflow/experiments").glob("*.yaml")}
    assert said == {
        "experiments": {name: name for name in names}, "typed": True, "miniature": "MaftPlus",
        "same": True,
    }  # fmt: skip
    run(python.with_name("maftp"), "predict", picture, "--weights", weights, cwd=elsewhere)
    labels = Image.open(next((elsewhere / "predictions").glob("**/*labels*.png")))
    assert labels.size == Image.open(picture).size


@pytest.fixture
def alone(python, tmp_path) -> Path:
    """An interpreter with the wheel and the libraries, but not those of any extra."""
    requirements = metadata.requires("maftp")
    extras = {re.match(r"[\w-]+", line)[0] for line in requirements if "extra ==" in line}
    assert {"ray", "mlflow", "snakemake", "pandas", "nicegui", "onnx"} <= extras
    venv.create(tmp_path / "alone", with_pip=False)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(tmp_path / "alone")}))
    installed = Path(sysconfig.get_path("purelib", vars={"base": str(python.parents[1])}))
    for entry in (*installed.glob("maftp*"), *Path(sysconfig.get_path("purelib")).iterdir()):
        if entry.suffix != ".pth" and entry.name not in extras and not (site / entry.name).exists():
            (site / entry.name).symlink_to(entry)
    return tmp_path / "alone" / "bin" / "python"


def test_the_library_alone_predicts_and_names_what_else_needs(alone, weights, folder, tmp_path):
    picture = folder / "one.png"
    run(alone, "-c", MAIN, "predict", picture, "--weights", weights, "--out", "seen", cwd=tmp_path)
    assert list((tmp_path / "seen").glob("**/*labels*.png"))
    shutil.copy(ROOT / "params.yaml", tmp_path)
    for words, package, extra in (
        (["convert", "coco_stuff"], "scipy", "pipeline"),
        (["demo", "--weights", weights], "nicegui", "demo"),
        (["export", "--format", "onnx", "--weights", weights], "onnxscript", "export"),
    ):
        command = [alone, "-c", MAIN, *words]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 1
        assert done.stderr.strip().splitlines()[-1] == (
            f"maftp {words[0]}: needs the package {package}, which is not installed;"
            f" `pip install ./envs/detectron2 '.[{extra}]'` brings it"
        )


def test_in_the_image_the_code_is_that_of_the_volume(python, tmp_path):
    found = re.search(r"PYTHONPATH=(\S+)", DOCKERFILE)
    assert found is not None
    volume = tmp_path / "volume"
    volume.mkdir()
    for name in ("maftp", "workflow"):
        (volume / name).symlink_to(ROOT / name)
    path = found[1].replace("/maftp", str(volume), 1).replace(":/maftp", f":{volume}")
    plugin = "snakemake_executor_plugin_kubernetes_volume"
    script = f"import maftp, {plugin} as plugin; print(maftp.__file__, plugin.__file__)"
    said = run(python, "-c", script, cwd=tmp_path, PYTHONPATH=path).split()
    assert [Path(file).is_relative_to(volume) for file in said] == [True, True]
