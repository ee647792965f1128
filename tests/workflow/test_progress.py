"""The display of a whole run: its forecast by hand, and the real Snakemake on a terminal."""

from __future__ import annotations

import os
import pty
import re
import subprocess
from pathlib import Path

import pytest
from snakemake_logger_plugin_maftp.forecast import Forecast, Job, time_left

from maftp.progress import clock
from tests.workflow.conftest import BIN

CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
LINE = "step {}/{}  loss 9.500 (ce 1.0)  norm 3  20 images/s  1:00 left"
SNAKEFILE = """
rule all:
    input: "table"

rule world:
    output: "world"
    shell: "sleep 1; touch {output:q}"

rule train:
    input: "world"
    output: "{run}.weights"
    log: "{run}.log"
    threads: 2
    message: "Train {wildcards.run}"
    shell:
        "echo 'step 1/2  loss 9.500 (ce 1)' | tee {log:q} >&2; sleep 1.5;"
        " echo 'a word of {wildcards.run}' >&2;"
        " [ {wildcards.run:q} != bad ] && touch {output:q}"

rule table:
    input: expand("{run}.weights", run=config["runs"].split())
    output: "table"
    message: "Write the table"
    shell: "touch {output:q}"
"""


def job(rule="train", start=0.0, threads=1, log=None) -> Job:
    return Job(rule, rule, threads, start, log)


@pytest.fixture
def forecast() -> Forecast:
    """Two cores; of four trainings and four evaluations one training took 100 seconds."""
    forecast = Forecast()
    forecast.cores = 2
    forecast.plan({"train": 4, "evaluate": 4})
    forecast.begin(1, job())
    forecast.finish(1, 100.0)
    return forecast


def test_what_is_known_is_shared_among_the_cores(forecast):
    forecast.begin(2, job(start=100.0))
    # 60 s of the running one and 100 s of each of the two others, on two cores
    assert forecast.seconds_left(140.0) == (130.0, False)
    assert time_left(forecast, 140.0) == "more than 2:10 left"
    forecast.begin(3, job("evaluate", start=100.0))
    forecast.finish(3, 110.0)
    assert forecast.seconds_left(140.0) == (145.0, True)
    assert time_left(forecast, 140.0) == "about 2:25 left"


def test_no_sooner_than_the_longest_job(forecast):
    forecast.plan({"train": 2})
    forecast.begin(2, job(start=100.0))
    assert forecast.seconds_left(120.0) == (80.0, True)


def test_a_training_tells_its_own_pace(forecast, tmp_path):
    log = tmp_path / "train.log"
    log.write_text("\n".join(LINE.format(step, 500) for step in (20, 40)))
    forecast.plan({"train": 2})
    written = log.stat().st_mtime
    forecast.begin(2, job(start=written - 20, log=log))
    assert forecast.seconds_left(written) == (pytest.approx(230), True)  # 20 s for 40 of 500 steps
    forecast.begin(2, job(start=written + 10, log=log))  # an attempt before this one wrote it
    assert forecast.running[2].step is None


def test_a_job_that_is_tried_again_counts_once(forecast):
    forecast.plan({"train": 2})
    forecast.begin(2, job(start=100.0))
    forecast.fail(2)
    assert forecast.seconds_left(150.0) == (50.0, True)
    forecast.begin(2, job(start=160.0))
    forecast.finish(2, 260.0)
    assert (forecast.done, forecast.total) == (2, 2)
    assert time_left(forecast, 260.0) == ""


@pytest.mark.parametrize(("seconds", "text"), [(7, "0:07"), (750.4, "12:30"), (11100, "3:05:00")])
def test_durations(seconds, text):
    assert clock(seconds) == text


def run(folder: Path, runs: str, *, terminal: bool) -> tuple[int, str]:
    """Return exit code and output of the real Snakemake with our plugin."""
    (folder / "Snakefile").write_text(SNAKEFILE)
    command = [BIN / "snakemake", "--cores", "2", "--logger", "maftp", "--config", f"runs={runs}"]
    if not terminal:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        return done.returncode, done.stderr
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100"}
    with subprocess.Popen(
        command, cwd=folder, stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    ) as process:
        os.close(theirs)
        shown = bytearray()
        try:
            while part := os.read(ours, 65536):
                shown += part
        except OSError:  # how a terminal says that nobody holds its other end
            pass
    os.close(ours)
    return process.returncode, shown.decode()


@pytest.mark.slow
def test_a_terminal_shows_the_run_and_what_jobs_print(tmp_path):
    code, shown = run(tmp_path, "one two", terminal=True)
    text = CONTROL.sub("", shown)
    assert code == 0
    assert re.search(r"Train (one|two) .*loss 9\.50", text), "a bar with the loss"
    assert re.search(r"1 of 5 jobs", text)
    assert re.search(r"more than 0:0\d left", text)
    assert re.search(r"✓ Train one   0:0[1-9]\r?$", text, re.M)
    assert re.search(r"a word of two\r?$", text, re.M)
    assert "step 1/2" not in text, "shown by the bar alone"
    assert re.search(r"5 of 5 jobs done in 0:0", text)
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l"), "the cursor is back"
    (log,) = (tmp_path / ".snakemake/log").glob("*.snakemake.log")
    assert "5 of 5 steps (100%) done" in log.read_text()


@pytest.mark.slow
def test_a_terminal_shows_why_a_job_failed(tmp_path):
    code, shown = run(tmp_path, "bad", terminal=True)
    text = CONTROL.sub("", shown)
    assert code == 1
    assert re.search(r"a word of bad\r?$", text, re.M)
    assert re.search(r"Error in rule train:\r?$", text, re.M)
    assert "log: bad.log" in text
    assert "1 of 4 jobs done" in text
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l"), "the cursor is back"


@pytest.mark.slow
def test_a_log_has_the_time_left_too(tmp_path):
    code, text = run(tmp_path, "one two", terminal=False)
    assert code == 0
    assert re.search(r"2 of 5 steps \(40%\) done, more than 0:0\d left", text)
    assert "\x1b" not in text
    assert "step 1/2  loss" in text
