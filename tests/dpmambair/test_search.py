"""What is found in folders: every picture, in order, and a word about all that is left out."""

import os
from pathlib import Path

import pytest

from dpmambair.console import Problems
from dpmambair.search import Search, sniff
from tests.restoring import save


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def search(*inputs, output="out"):
    found = Search(Path(output), Problems())
    for given in inputs:
        found.add(Path(given))
    found.tell_left_out()
    return [(source.as_posix(), place.as_posix()) for source, place in found.found]


def test_inputs_are_listed_sorted_and_by_their_place():
    for name in ("b.png", "a.png", "c/a.png"):
        save(f"in/{name}")
    assert search("in", "lone.jpeg") == [
        ("in/a.png", "a.png"),
        ("in/b.png", "b.png"),
        ("in/c/a.png", "c/a.png"),
        ("lone.jpeg", "lone.jpeg"),
    ]


def test_what_is_left_out_is_told(capsys):
    save("in/a.png")
    for name in ("notes.txt", "b.txt", "raw.NEF", "README", ".hidden.png", ".trash/c.png"):
        path = Path("in", name)
        path.parent.mkdir(exist_ok=True)
        path.write_text("no picture")
    assert search("in") == [("in/a.png", "a.png")]
    assert capsys.readouterr().err == (
        "note: left out of the folders, as no pictures: .nef (1), .txt (2), hidden (1), hidden folder (1), "
        "no suffix (1)\n"
    )


def test_pictures_without_a_suffix_are_found_by_their_content():
    save("in/IMG_1", format="JPEG")
    Path("in/IMG_2").write_text("no picture")
    os.mkfifo("in/pipe")
    assert search("in") == [("in/IMG_1", "IMG_1")]
    assert sniff(Path("in/IMG_1")) == "JPEG"
    assert sniff(Path("in/gone")) is sniff(Path("in/pipe")) is None


def test_formats_of_a_plug_in_that_is_missing_are_not_overlooked():
    Path("phone").mkdir()
    Path("phone/IMG_1.HEIC").write_bytes(b"a photograph")
    assert search("phone") == [("phone/IMG_1.HEIC", "IMG_1.HEIC")]


def test_linked_folders_and_files_are_searched(capsys):
    save("elsewhere/a.png")
    Path("in").mkdir()
    Path("in/album").symlink_to("../elsewhere")
    Path("in/b.png").symlink_to("../elsewhere/a.png")
    assert search("in") == [("in/b.png", "b.png"), ("in/album/a.png", "album/a.png")]
    assert capsys.readouterr().err == ""


def test_links_in_circles_are_followed_once_and_told(capsys):
    save("in/a/x.png")
    save("in/b/y.png")
    Path("in/a/to_b").symlink_to("../b")
    Path("in/b/to_a").symlink_to("../a")
    Path("in/a/up").symlink_to("..")
    found = search("in")
    assert {source for source, _ in found} >= {"in/a/x.png", "in/b/y.png", "in/a/to_b/y.png", "in/b/to_a/x.png"}
    assert len(found) == len(set(found)) < 10
    told = capsys.readouterr().err.splitlines()
    assert "note: in/a/up leads back to in, and is not searched again" in told
    assert "note: in/a/to_b/to_a leads back to in/a, and is not searched again" in told


def test_an_input_that_is_given_twice_is_restored_once(capsys):
    save("in/a.png")
    assert search("in", "in/a.png", "./in/a.png") == [("in/a.png", "a.png")]
    assert capsys.readouterr().err.splitlines() == ["note: in/a.png is given twice, and restored once"] * 2


def test_the_output_is_not_searched_whatever_it_is_called():
    save("in/a.png")
    save("in/out/b.png")
    Path("link").symlink_to("in/out")
    assert search("in", output="link") == [("in/a.png", "a.png")]
