"""Runs that are interrupted, killed or shared out: together they do what one clean run does."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dpmambair import files
from dpmambair.shipped import SHIPPED
from modeling_dpmambair import DPMambaIRModel
from tests.restoring import ROOT, files_below, photograph, pictures_below, records_below, save

OPTIONS = ("--dtype", "float32", "--device", "cpu")


def save_pictures(folder, number, size=(24, 16)):
    for seed in range(number):
        save(f"{folder}/{seed % 3}/{seed:03}.{('png', 'jpg', 'webp')[seed % 3]}", photograph(size, seed=seed))


def contents(folder):
    return {name: Path(folder, name).read_bytes() for name in pictures_below(folder)}


def interrupt_after(monkeypatch, number, interrupt):
    """Interrupt the run during the picture after so many."""
    forward, calls = DPMambaIRModel.forward, []

    def count(self, *arguments, **options):
        calls.append(self)
        if len(calls) == number + 1:
            interrupt()
        return forward(self, *arguments, **options)

    monkeypatch.setattr(DPMambaIRModel, "forward", count)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_says_how_to_go_on_and_does(run, monkeypatch, number):
    save_pictures("in", 9)
    run("in", "-o", "clean", *OPTIONS)
    with monkeypatch.context() as patch:
        interrupt_after(patch, 4, lambda: os.kill(os.getpid(), number))
        result = run("in", "-o", "out", *OPTIONS)
    assert result.exit_code == 130
    assert result.stdout == "restored 4 of 9 pictures into out\n"
    assert result.stderr == "interrupted; what is done is kept; run the same command again to go on\n"
    assert [name for name in files_below("out") if ".part" in name] == []
    assert len(pictures_below("out")) == 4
    result = run("in", "-o", "out", *OPTIONS)
    assert (result.exit_code, result.stdout) == (0, "restored 5 of 9 pictures into out (4 done before)\n")
    assert contents("out") == contents("clean")


def test_a_launcher_that_sends_both_signals_gets_the_same(run, monkeypatch):
    save_pictures("in", 3)

    def interrupt():
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        raise KeyboardInterrupt

    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    interrupt_after(monkeypatch, 1, interrupt)
    result = run("in", "-o", "out", *OPTIONS)
    assert (result.exit_code, result.stdout) == (130, "restored 1 of 3 pictures into out\n")
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


def test_a_failure_under_a_launcher_ends_no_other_process(run, monkeypatch):
    Path("bad.png").write_text("no picture")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    result = run("bad.png", "-o", "out")
    assert (result.exit_code, len(result.stderr.splitlines())) == (0, 1)


def test_a_run_that_is_complete_is_left_as_it_is(run):
    save_pictures("in", 3)
    run("in", "-o", "out", "--compare", *OPTIONS)
    before = {path: path.stat().st_mtime_ns for path in Path("out").rglob("*") if path.is_file()}
    result = run("in", "-o", "out", "--compare", "--overwrite", *OPTIONS)
    assert result.stdout == "restored 0 of 3 pictures into out (3 done before)\n"
    assert {path: path.stat().st_mtime_ns for path in Path("out").rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("spoil", ["input", "output", "gone", "comparison"])
def test_what_has_changed_is_done_again(run, spoil):
    save_pictures("in", 3)
    run("in", "-o", "out", "--compare", *OPTIONS)
    clean = contents("out")
    if spoil == "input":
        save("in/0/000.png", photograph(seed=99))
    elif spoil == "output":
        Path("out/0/000.png").write_bytes(clean["0/000.png"][::-1])
    else:
        Path("out/0/000.png" if spoil == "gone" else "out/0/000_compare.png").unlink()
    result = run("in", "-o", "out", "--compare", "--overwrite", *OPTIONS)
    assert result.stdout == "restored 1 of 3 pictures into out (2 done before)\n"
    assert (contents("out") == clean) == (spoil != "input")


def test_a_report_that_was_not_made_yet_is_made(run):
    save_pictures("in", 1)
    run("in", "-o", "out", model=SHIPPED)
    result = run("in", "-o", "out", "--report", model=SHIPPED)
    assert result.stdout.endswith("restored 1 of 1 pictures into out\n")
    first, second = records_below("out")
    assert first["detected"] is None
    assert second["detected"].keys() == {"haze", "rain", "snow", "low_light", "blur", "jpeg", "noise"}
    assert run("in", "-o", "out", "--report", model=SHIPPED).stdout.endswith("(1 done before)\n")


def test_a_record_that_came_before_a_kill_proves_no_older_file(run, monkeypatch):
    """The record is on the disk, its file does not have its name yet, and another stands there."""
    save("a.png")
    kept = save("out/a.png", photograph((3, 3))).read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(files.os, "replace", lambda *_: (_ for _ in ()).throw(SystemExit))
        run("a.png", "-o", "out", "--overwrite")
    assert Path("out/a.png").read_bytes() == kept
    assert any(record["error"] is None for record in records_below("out"))
    assert run("a.png", "-o", "out", "--overwrite").stdout == "restored 1 of 1 pictures into out\n"


@pytest.mark.parametrize("kept", [{"a.png"}, {"a_compare.png"}, {"a.png", "a_compare.png"}, set()])
def test_a_kill_between_the_files_of_a_picture_is_no_reason_to_refuse_it(run, kept):
    save("a.png")
    run("a.png", "-o", "out", "--compare", *OPTIONS)
    clean = contents("out")
    for name in clean.keys() - kept:
        Path("out", name).unlink()
    result = run("a.png", "-o", "out", "--compare", *OPTIONS)
    assert (result.exit_code, result.stderr) == (0, "")
    assert ("1 done before" in result.stdout) == (len(kept) == 2)
    assert contents("out") == clean


def test_left_over_files_of_killed_runs_are_cleared(run):
    save("a.png")
    Path("out").mkdir()
    code = (
        "import os, pathlib\nfrom dpmambair.files import replacing\n"
        "with replacing(pathlib.Path('out/a.png')) as path:\n    path.write_text('half')\n    os.kill(os.getpid(), 9)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], check=False, env=environment)
    assert len(files_below("out")) == 1
    assert run("a.png", "-o", "out").exit_code == 0
    assert files_below("out") == ["a.png", "manifest.jsonl"]


@pytest.mark.parametrize("tell", ["option", "environment"])
def test_shards_lose_and_double_nothing(run, monkeypatch, tell):
    save_pictures("in", 12)
    run("in", "-o", "clean", *OPTIONS)
    for index in range(3):
        if tell == "environment":
            monkeypatch.setenv("RANK", str(index))
            monkeypatch.setenv("WORLD_SIZE", "3")
            result = run("in", "-o", "out", *OPTIONS)
        else:
            result = run("in", "-o", "out", "--shard", f"{index + 1}/3", *OPTIONS)
        assert result.exit_code == 0
        assert result.stdout.endswith(f"(shard {index + 1}/3)\n")
    assert contents("out") == contents("clean")
    done = sorted(record["output"] for record in records_below("out") if not record["error"])
    assert done == pictures_below("clean")
    monkeypatch.delenv("RANK", raising=False)
    assert run("in", "-o", "out", *OPTIONS).stdout == "restored 0 of 12 pictures into out (12 done before)\n"


def test_names_do_not_depend_on_the_shard(run):
    for seed, name in enumerate(("a/x.png", "b/x.png", "b/x.gif", "c/x.gif")):
        save(name, photograph(seed=seed))
    run("a", "b", "c", "-o", "clean", "--format", "png", *OPTIONS)
    for shard in ("1/2", "2/2"):
        run("a", "b", "c", "-o", "out", "--format", "png", "--shard", shard, *OPTIONS)
    assert contents("out") == contents("clean")


def restoring(model, *arguments, launcher=("-m", "dpmambair.restore")):
    command = [sys.executable, *launcher, *arguments, "--model", str(model), *OPTIONS]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_a_run_killed_twice_at_random_and_begun_again_is_one_clean_run(run, model_folder, seed):
    generator = random.Random(seed)
    save_pictures("in", 60, (64, 48))
    run("in", "-o", "clean", "--compare", *OPTIONS)
    for begin, end in ((3, 25), (40, 80)):
        threshold = generator.randint(begin, end)  # of files: pictures and comparisons
        process = restoring(model_folder, "in", "-o", "out", "--compare")
        deadline = time.monotonic() + 300
        while (not Path("out").exists() or len(pictures_below("out")) < threshold) and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(generator.uniform(0, 0.1))
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    process = restoring(model_folder, "in", "-o", "out", "--compare")
    output, errors = process.communicate(timeout=300)
    assert (process.returncode, errors) == (0, "")
    done_before = int(output.partition("(")[2].partition(" done before")[0])
    assert 15 <= done_before < 60
    assert contents("out") == contents("clean")
    assert {record["output"] for record in records_below("out") if not record["error"]} == set(pictures_below("clean"))


@pytest.mark.slow
def test_accelerate_gives_the_files_of_one_process(run, model_folder):
    save_pictures("in", 12)
    run("in", "-o", "clean", *OPTIONS)
    Path("in/bad.png").write_text("no picture, and no reason to stop the other process")
    launcher = ("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2")
    process = restoring(model_folder, "in", "-o", "out", launcher=(*launcher, "--module", "dpmambair.restore"))
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert sorted(line.partition("(")[2] for line in output.splitlines()) == ["shard 1/2)", "shard 2/2)"]
    assert contents("out") == contents("clean")
    done = sorted(record["output"] for record in records_below("out") if not record["error"])
    assert done == pictures_below("clean")
