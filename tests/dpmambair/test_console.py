"""What commands say: in one line, and nothing that a terminal would obey."""

import io

import pytest
import torch

from dpmambair import console
from dpmambair.console import Problems, describe, printable


def test_characters_that_a_terminal_obeys_are_escaped():
    assert printable("a\x1b[2Jb\nc\u202ed\x9b") == "a\\x1b[2Jb\\nc\\u202ed\\x9b"
    assert printable("Große Fähre – 写真 ✓") == "Große Fähre – 写真 ✓"


def test_bytes_of_names_that_are_no_text_are_escaped():
    assert printable(b"caf\xe9".decode(errors="surrogateescape")) == "caf\\udce9"


def test_a_terminal_of_another_encoding_gets_what_it_can_show(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(console.sys, "stdout", io.TextIOWrapper(raw, encoding="ascii", newline="\n"))
    console.say("é")
    console.sys.stdout.flush()
    assert raw.getvalue() == b"\\xe9\n"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 TiB.\nSee the docs."), "not enough memory"),
        (RuntimeError("could not create a primitive"), "not enough memory"),
        (RuntimeError("shapes differ\nsecond line"), "shapes differ"),
        (KeyError(), "KeyError"),
        (FileExistsError(17, "File exists", "out/a"), "File exists: out/a"),
        (FileExistsError(17, "File exists", "in/a.png"), "File exists"),
    ],
)
def test_a_failure_is_told_in_one_line(error, reason, capsys):
    assert describe(error, "in/a.png").startswith(reason)
    problems = Problems()
    problems.add("in/a.png", error)
    assert capsys.readouterr().err.startswith(f"in/a.png: {reason}")
    assert problems.count == 1


def test_a_failure_of_what_has_no_name_is_told_in_one_line():
    assert describe(RuntimeError("shapes differ\nsecond line"), "") == "shapes differ"


def test_a_failure_is_told_in_one_line_whatever_the_file_is_called(capsys):
    Problems().add("a\nb.png", OSError("`image` must be a picture, got a\nb.png; convert it"))
    assert capsys.readouterr().err == "a\\nb.png: `image` must be a picture, got a\\nb.png; convert it\n"
