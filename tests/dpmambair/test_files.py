import os
import subprocess
import sys
from pathlib import Path

import pytest

from dpmambair.files import clear_leftovers, new_folder, replacing


def test_a_written_file_takes_its_place_with_its_folder(tmp_path):
    target = tmp_path / "new" / "a.png"
    with replacing(target) as temporary:
        assert temporary.parent == target.parent
        assert temporary.suffix == ".png"
        temporary.write_text("whole")
        assert not target.exists()
    assert [path.read_text() for path in target.parent.iterdir()] == ["whole"]


def test_an_interrupted_file_leaves_the_one_before(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("before")

    def write_half():
        with replacing(target) as temporary:
            temporary.write_text("half")
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        write_half()
    assert [path.read_text() for path in tmp_path.iterdir()] == ["before"]


def test_a_folder_is_whole_or_absent(tmp_path):
    def write_half(target):
        with new_folder(target) as unfinished:
            unfinished.mkdir()
            (unfinished / "half").touch()
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        write_half(tmp_path / "a")
    assert list(tmp_path.iterdir()) == []
    with new_folder(tmp_path / "a") as unfinished:
        unfinished.mkdir()
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]


@pytest.mark.parametrize("name", ["x" * 255, f"{'x' * 251}.png", f"x.{'y' * 253}", "é" * 127])
def test_any_name_that_the_file_system_takes_is_written(tmp_path, name):
    with replacing(tmp_path / name) as temporary:
        temporary.write_text("whole")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_long_names_that_begin_alike_have_temporary_files_of_their_own(tmp_path):
    with replacing(tmp_path / f"{'x' * 250}1.png") as first, replacing(tmp_path / f"{'x' * 250}2.png") as second:
        assert first != second
        first.write_text("1")
        second.write_text("2")
    assert sorted(path.read_text() for path in tmp_path.iterdir()) == ["1", "2"]


def test_a_file_is_on_the_disk_before_it_takes_its_name(tmp_path, monkeypatch):
    target = tmp_path / "a.txt"
    existed = []
    monkeypatch.setattr(os, "fsync", lambda _: existed.append(target.exists()))
    with replacing(target) as temporary:
        temporary.write_text("whole")
    assert existed == [False]


def left_by(folder, process):
    """Let a process die while it writes, and return its temporary file."""
    code = (
        "import os, pathlib, sys\nfrom dpmambair.files import replacing\n"
        f"with replacing(pathlib.Path(sys.argv[1], '{process}.png')) as path:\n"
        "    path.write_text('half')\n    print(path, flush=True)\n    os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True, check=False)
    assert done.returncode == -9
    return Path(done.stdout.strip())


def test_what_killed_processes_left_is_cleared_and_nothing_else(tmp_path):
    left = left_by(tmp_path, "a")
    kept = [tmp_path / ".hidden.png", tmp_path / ".a.part.png", tmp_path / f"{left.name[1:]}"]
    for path in kept:
        path.write_text("mine")
    with replacing(tmp_path / "b.png") as own:
        own.write_text("being written")
        alive = own.with_name(own.name.replace(f".{os.getpid()}.", ".1."))
        os.rename(own, alive)
        elsewhere = left.with_name(left.name.replace(left.name.split(".")[2], "0" * 8))
        elsewhere.write_text("of another machine")
        clear_leftovers([tmp_path, tmp_path / "nowhere"])
        assert not left.exists()
        assert set(tmp_path.iterdir()) == {*kept, alive, elsewhere}
        os.utime(elsewhere, (0, 0))
        clear_leftovers([tmp_path])
        assert not elsewhere.exists()
        os.rename(alive, own)
    assert set(tmp_path.iterdir()) == {*kept, tmp_path / "b.png"}


def test_what_a_process_of_the_same_number_left_is_cleared(tmp_path):
    with replacing(tmp_path / "a.png") as temporary:
        temporary.write_text("half")
        left = temporary.read_text()
        clear_leftovers([tmp_path])
        assert not temporary.exists()
        temporary.write_text(left)
