"""The command line: one sentence and an exit code, whatever the disk or the libraries do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from maftp.cli import create_app, main

ROOT = Path(__file__).resolve().parents[2]


def maftp(*arguments: object, **options: object) -> subprocess.CompletedProcess:
    command = [Path(sys.executable).with_name("maftp"), *arguments]
    return subprocess.run(
        list(map(str, command)), capture_output=True, text=True, cwd=ROOT, **options
    )


def run(capsys, *arguments: object) -> tuple[int, str]:
    """Return exit code and standard error of a command run here."""
    code = main(list(map(str, arguments)))
    return code, capsys.readouterr().err


def assert_sentence(code: int, text: str, *parts: str) -> None:
    assert code == 1
    assert text.count("\n") == 1 and text.startswith("maftp "), text
    assert all(part in text for part in parts), text


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("trian", 'maftp trian: Unknown command "trian". Did you mean "train"?'),
        ("data stat", 'maftp data: Unknown command "stat". Did you mean "status"?'),
        ("params --shema", "maftp params: Unknown option: --shema. Did you mean --schema?"),
        ("merge-tables --params x", "maftp merge-tables: Unknown option: --params."),
        ("convert x --jobs many", "maftp convert: Invalid value for --jobs: unable to convert"),
        (
            "embed x --clip c --out o --templates 3",
            'maftp embed: Invalid value "3" for --templates. Choose from',
        ),
        ("demo --port 0", 'maftp demo: Invalid value "0" for --port. Must be >= 1.'),
        ("table --out x", 'maftp table: Command "table" parameter RUNS requires an argument.'),
        ("params --params", 'maftp params: Command "params" parameter --params requires at least'),
        ("params --log", "maftp params: Parameter --log requires an argument."),
        ("data", "maftp data: no command is named; `maftp data --help` lists them"),
        ("", "maftp: no command is named; `maftp --help` lists them"),
    ],
)
def test_what_is_typed_wrong_is_named(capsys, words, sentence):
    code, said = run(capsys, *words.split())
    assert code == 2
    assert said.startswith(sentence) and said.count("\n") == 1, said


def commands(app, *words):
    """Return all commands by their words."""
    found = {}
    for name, command in app.resolved_commands().items():
        if not name.startswith("-"):
            inner = commands(command, *words, name)
            found |= inner or {(*words, name): command}
    return found


def test_every_command_and_option_is_explained():
    found = commands(create_app())
    assert ("runs", "compare") in found and len(found) > 25
    for words, command in found.items():
        assert command.help, words
        for argument in command.assemble_argument_collection(parse_docstring=True):
            assert argument.parameter.help or not argument.show, f"{words}: {argument.name}"


HELP = """
import sys
from maftp.cli import main
assert main(["--help"]) == 0
print(sorted({"torch", "numpy", "pydantic", "yaml", "requests", "maftp.config"} & set(sys.modules)))
"""


def test_help_waits_for_no_library():
    done = subprocess.run([sys.executable, "-c", HELP], capture_output=True, text=True, check=True)
    assert "evaluate" in done.stdout and done.stdout.endswith("[]\n")


COMPLETE = """
source ~/.bashrc
COMP_WORDS=($1 "$2"); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _maftp; echo "${COMPREPLY[@]}"
"""


@pytest.mark.parametrize(
    ("typed", "begun", "offered"),
    [
        ("maftp", "tra", "train"),
        ("maftp data", "ver", "verify"),
        ("maftp figure", "--base", "--baseline"),
        ("maftp export --format", "to", "torch-export"),
    ],
)
def test_the_shell_completes(tmp_path, typed, begun, offered):
    """As README says: install, then a new shell."""
    home = os.environ | {"HOME": str(tmp_path)}
    assert maftp("--install-completion", "--shell", "bash", env=home).returncode == 0
    done = subprocess.run(
        ["bash", "-c", COMPLETE, "bash", typed, begun], capture_output=True, text=True, env=home
    )
    assert done.stdout.split() == [offered], done.stderr


OUTPUTS = {
    "train": ("train", "--clip", "c", "--text", "t", "--out"),
    "evaluate": ("evaluate", "A-150", "--weights", "w", "--out"),
    "embed": ("embed", "names.txt", "--clip", "c", "--out"),
    "clip": ("clip", "--out"),
    "table": ("table", "results/x", "--markdown", "x.md", "--differences", "d.csv", "--out"),
    "markdown": ("table", "results/x", "--out", "x.csv", "--differences", "d.csv", "--markdown"),
    "predict": ("predict", "docs/miniature.png", "--out"),
    "export": ("export", "--out"),
}
FOLDERS = {"train", "evaluate", "predict"}


@pytest.mark.parametrize("name", OUTPUTS)
def test_outputs_are_checked_before_the_work(capsys, tmp_path, name):
    """No input of these commands is there: the place for the result is what is refused."""
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    below, of_the_other_kind = tmp_path / "file" / "x", tmp_path / "folder"
    if name in FOLDERS:
        of_the_other_kind = tmp_path / "file"
    assert_sentence(*run(capsys, *OUTPUTS[name], below), "file is not a folder")
    wrong = "is not a folder" if name in FOLDERS else "is a folder; give the name of a file"
    assert_sentence(*run(capsys, *OUTPUTS[name], of_the_other_kind), wrong)


def test_the_log_must_be_a_file(capsys, tmp_path):
    (tmp_path / "file").touch()
    place = str(tmp_path)
    assert_sentence(*run(capsys, "params", "--log", tmp_path), place, "is a folder", "EISDIR")
    assert_sentence(*run(capsys, "params", "--log", tmp_path / "file/x.log"), place)


def test_a_read_only_disk_is_a_sentence(tmp_path):
    script = (
        f"mount -t tmpfs -o ro none {tmp_path} || exit 77; exec {Path(sys.executable).parent}/maftp"
        f" clip --out {tmp_path}/clip.safetensors"
    )
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script], capture_output=True, text=True, cwd=ROOT
    )
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip("no permission to mount a small file system")
    assert_sentence(done.returncode, done.stderr, "clip.safetensors: the file system is read-only")


def test_a_full_disk_is_a_sentence_and_leaves_nothing(tmp_path):
    program = Path(sys.executable).with_name("maftp")
    script = (
        f"mount -t tmpfs -o size=64k none {tmp_path} || exit 77;"
        f"{program} clip --out {tmp_path}/clip.safetensors; echo $?; ls -A {tmp_path}"
    )
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script], capture_output=True, text=True, cwd=ROOT
    )
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip("no permission to mount a small file system")
    assert_sentence(1, done.stderr, "clip.safetensors: no space is left on this disk", "ENOSPC")
    assert done.stdout == "1\n"


def test_a_reader_that_ends_is_no_traceback():
    command = f"{Path(sys.executable).parent}/maftp params | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=ROOT)
    assert "Traceback" not in done.stderr and "Exception" not in done.stderr


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (OSError(28, "No space left on device", "a/b"), "a/b: no space is left on this disk"),
        (PermissionError(13, "Permission denied", "a/b"), "a/b: permission denied"),
        (OSError("two\nlines"), "two lines"),
        (MemoryError(), "memory does not suffice"),
    ],
)
def test_errors_of_the_system_are_sentences(capsys, monkeypatch, tmp_path, error, sentence):
    def fail(files):
        raise error

    monkeypatch.setattr("maftp.cli.params.read_params", fail)
    log = tmp_path / "log.txt"
    assert_sentence(*run(capsys, "params", "--log", log), sentence)
    assert "Traceback" in log.read_text()  # for us, not for the user


def test_an_interrupted_command_says_how_to_go_on(capsys, monkeypatch):
    def interrupted(files):
        raise KeyboardInterrupt

    monkeypatch.setattr("maftp.cli.params.read_params", interrupted)
    assert run(capsys, "params") == (130, "maftp params: interrupted; run it again to go on\n")


WARN = """
import logging, sys, warnings
from maftp.cli import main
from maftp.cli import params

def warn(files):
    warnings.warn("old", FutureWarning)
    logging.getLogger("timm").warning("new")
    logging.getLogger("maftp.data").warning("ours")
    sys.exit()

params.read_params = warn
sys.exit(main(["params", "--log", sys.argv[1]]))
"""


def test_what_libraries_warn_of_stays_out_of_the_terminal(tmp_path):
    log = tmp_path / "log.txt"
    done = subprocess.run(
        [sys.executable, "-c", WARN, log], capture_output=True, text=True, cwd=ROOT
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "ours\n")
    assert all(word in log.read_text() for word in ("FutureWarning: old", "timm: new", "ours"))


@pytest.mark.slow
def test_no_warning_of_torch_s_compiler_in_the_terminal(tmp_path):
    """Importing the models makes torch.jit warn of itself."""
    (tmp_path / "names.txt").write_text("1:sky\n")
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONWARNINGS"}
    clip = ROOT / "maftp/miniworld/clip_miniature.safetensors"
    done = maftp(
        "embed", tmp_path / "names.txt", "--clip", clip, "--out", tmp_path / "a.safetensors",
        env=environment,
    )  # fmt: skip
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "")
