"""Kills, signals, full disks, read-only places and too little memory: nothing is lost, and all is said."""

import os
import random
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.reliability.commands import ROOT, environment, forget, make_works
from tests.restoring import files_below, photograph, save

pytestmark = pytest.mark.slow

NAMES = ["training", "bulk restoring", "evaluation", "dataset building", "export"]
DEADLINE = 900
# What each says once its work has begun.
BEGUN = {
    "training": "step", "bulk restoring": "restored", "evaluation": "picture", "dataset building": "pairs in",
    "export": "deviation",
}  # fmt: skip
# Names of what is not whole yet.
HALF = re.compile(r"\.part(\.|$)|\.tmp|unfinished|exporting")
# Runs the restoring command, and tells how much address space it took.
MEASURED = """
import re, sys
from dpmambair.restore import main
try:
    main()
finally:
    print("peak", re.search(r"VmPeak:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("place")


@pytest.fixture(scope="module")
def works(place):
    return make_works(place)


def start(work, out, place, **options):
    """Start a command in a process group of its own."""
    out.mkdir(parents=True, exist_ok=True)
    return subprocess.Popen(
        work.command(out), cwd=ROOT, env=environment(place), start_new_session=True, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options,
    )  # fmt: skip


def finish(work, out, place):
    """Run a command to its end, which must be a good one."""
    process = start(work, out, place)
    _, errors = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0, (work.name, errors[-2000:])


@pytest.fixture(scope="module")
def clean(works, place):
    """What clean runs leave, and the seconds that they take, made when they are asked for."""
    known = {}

    def run(name):
        if name not in known:
            out, begun = place / "clean" / name.replace(" ", "_"), time.monotonic()
            finish(works[name], out, place)
            known[name] = works[name].digest(out), time.monotonic() - begun
        return known[name]

    return run


@pytest.mark.parametrize("name", NAMES)
def test_runs_killed_at_random_moments_end_as_clean_ones(works, place, clean, record, kills, name):
    work, (expected, seconds) = works[name], clean(name)
    moments, left, failed = random.Random(name), kills, []
    while left:
        out = place / f"killed-{work.name.replace(' ', '_')}"
        forget(out)
        # Up to four kills in a life, as on a machine that is taken away again and again.
        for _ in range(min(left, moments.randint(1, 4))):
            process = start(work, out, place)
            time.sleep(moments.uniform(0, seconds))
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            left -= 1
        process = start(work, out, place)
        _, errors = process.communicate(timeout=DEADLINE)
        is_done_before = name in ("dataset building",) and "must not exist yet" in errors  # killed after its end
        if process.returncode and not is_done_before:
            failed.append(errors[-500:])
        elif work.digest(out) != expected:
            failed.append(f"{name} differs")
    record("kill -9", name, kills, failed)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_whole_group_saves_the_training(works, place, clean, record, number):
    work, (expected, _) = works["training"], clean("training")
    out = place / f"group-{number.name}"
    process = start(work, out, place)
    deadline = time.monotonic() + DEADLINE
    while not (out / "checkpoint-5").exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)
    os.killpg(process.pid, number)
    said, errors = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0, errors[-2000:]
    assert "stopped by a signal after saving" in said or "trained" in said
    assert "DataLoader worker" not in errors
    finish(work, out, place)
    names, weights, log = work.digest(out)
    # One more checkpoint, at the step of the signal, may be among those kept.
    record(
        "signals to the group",
        f"training, {number.name}",
        1,
        [] if [weights, log] == list(expected[1:]) else ["differs"],
    )


# Full disks and places that cannot be written


@pytest.fixture
def mounted(tmp_path):
    """Mount a file system of a size, read-only or not; skipped where that is not allowed."""
    made = []

    def mount(options):
        folder = tmp_path / f"mounted-{len(made)}"
        folder.mkdir()
        if subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True
        ).returncode:
            pytest.skip("mounting is not allowed here")
        made.append(folder)
        return folder

    yield mount
    for folder in made:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("name", NAMES)
def test_a_full_disk_is_said_in_one_line_and_leaves_nothing_half(works, place, mounted, record, name):
    out = mounted("size=12k" if name == "evaluation" else "size=64k") / "out"  # too little for what each writes
    process = start(works[name], out, place)
    _, errors = process.communicate(timeout=DEADLINE)
    failed = []
    if process.returncode in (0, None) or process.returncode < 0:
        failed.append(f"exit {process.returncode}")
    if "Traceback" in errors or not any("No space left" in line for line in errors.splitlines()):
        failed.append(errors[-1500:])
    failed += [left for left in files_below(out) if HALF.search(left)]
    record("full disks", name, 1, failed)


@pytest.mark.parametrize("name", NAMES)
def test_a_place_that_cannot_be_written_is_said_before_the_work(works, place, mounted, record, name):
    folder = mounted("size=1m")
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
    process = subprocess.Popen(
        works[name].command(folder / "out"), cwd=ROOT, env=environment(place), text=True, stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )  # fmt: skip
    said, errors = process.communicate(timeout=DEADLINE)
    failed = (
        [] if process.returncode and "Traceback" not in errors else [f"exit {process.returncode}: {errors[-1500:]}"]
    )
    if not any(words in errors for words in ("Read-only file system", "can be written")):
        failed.append(errors[-1500:])
    failed += [f"said {BEGUN[name]}"] if BEGUN[name] in said + errors else []
    record("places that cannot be written", name, 1, failed)


# Memory


@pytest.mark.parametrize("mebibytes", [150, 1000])
def test_too_little_memory_leads_to_tiles_or_to_one_line(works, place, tmp_path, record, mebibytes):
    """So much more than restoring a tiny picture takes, most of it for the libraries."""
    save(tmp_path / "in" / "small.png")
    begin = [sys.executable, "-c", MEASURED, str(tmp_path / "in"), "--model", str(place / "model"), "--device", "cpu"]
    options = {"cwd": ROOT, "env": environment(place), "text": True, "capture_output": True, "timeout": DEADLINE}
    alone = subprocess.run([*begin, "-o", str(tmp_path / "alone")], **options)
    needed = int(re.search(r"^peak (\d+)$", alone.stdout, re.MULTILINE)[1]) * 1024
    save(tmp_path / "in" / "large.png", photograph((1200, 900)))
    limit = needed + mebibytes * 2**20
    options["preexec_fn"] = lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    done = subprocess.run([*begin, "-o", str(tmp_path / "out")], **options)
    written = {Path(name).stem for name in files_below(tmp_path / "out") if name.endswith(".png")}
    refused = {line.split(": ")[0].rpartition("/")[2].removesuffix(".png") for line in done.stderr.splitlines()}
    failed = [] if "Traceback" not in done.stderr and done.returncode in (0, 1) else [done.stderr[-2000:]]
    failed += [] if written | refused >= {"large", "small"} and "small" in written else [done.stderr[-1500:]]
    record("limits of memory", f"command line, {mebibytes} MiB to spare", 1, failed)
