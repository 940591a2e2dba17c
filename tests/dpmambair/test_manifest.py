"""The manifest: durable lines, and what they prove."""

import json
import os
from pathlib import Path

import pytest

from dpmambair.manifest import Manifest, describe_file, proves, read_manifests
from dpmambair.shard import Shard
from tests.restoring import save

FINGERPRINT = {"settings": "0123", "strength": 1.0}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write(source, target, shard=Shard(), **values):  # noqa: B008
    manifest = Manifest(Path("out"), shard, FINGERPRINT)
    manifest.add(source, target.name, **describe_file(target), **values)
    manifest.close()


def made():
    return save("in.png"), save("out/a.png")


def is_proven(source, target, settings="0123"):
    return any(proves(record, source, target, settings) for record in read_manifests(Path("out"))[target.name])


def test_a_record_proves_a_file_until_anything_changes():
    source, target = made()
    write(source, target)
    assert is_proven(source, target)
    assert not is_proven(source, target, settings="other")
    assert not is_proven(save("other.png"), target)
    os.utime(target, (1, 1))  # as a copy of the folder may do
    assert is_proven(source, target)
    content = target.read_bytes()
    target.write_bytes(content[:-1] + b"\x01")
    assert not is_proven(source, target)
    target.write_bytes(content)
    assert is_proven(source, target)
    os.utime(source, (1, 1))
    assert not is_proven(source, target)
    target.unlink()
    assert not is_proven(source, target)


def test_a_failure_proves_nothing():
    source, target = made()
    write(source, target, error="not enough memory")
    assert not is_proven(source, target)


@pytest.mark.parametrize("size", range(1, 120, 7))
def test_half_a_line_of_a_killed_process_spoils_nothing(size):
    source, target = made()
    write(source, target)
    path = Path("out/manifest.jsonl")
    path.write_bytes(path.read_bytes() + path.read_bytes().splitlines()[1][:size])
    other = save("out/b.png")
    write(source, other)
    assert is_proven(source, target)
    assert is_proven(source, other)


def test_the_records_of_all_processes_count_however_many_there_are_now():
    source, target = made()
    other = save("out/b.png")
    write(source, target, Shard(1, 2))
    write(source, other, Shard(3, 3))
    assert sorted(path.name for path in Path("out").glob("*.jsonl")) == [
        "manifest-1-of-2.jsonl",
        "manifest-3-of-3.jsonl",
    ]
    assert is_proven(source, target)
    assert is_proven(source, other)


def test_the_settings_behind_the_hash_are_told_once_a_run():
    source, target = made()
    write(source, target)
    write(source, target)
    lines = [json.loads(line) for line in Path("out/manifest.jsonl").read_text().splitlines()]
    assert [line for line in lines if "output" not in line] == [FINGERPRINT] * 2


def test_a_record_is_on_the_disk_when_it_was_added(monkeypatch):
    source, target = made()
    synced = []
    monkeypatch.setattr(os, "fsync", lambda _: synced.append(Path("out/manifest.jsonl").read_text().count("\n")))
    write(source, target)
    assert synced == [1, 2]


def test_names_that_are_no_text_come_back():
    source = Path(os.fsdecode(b"caf\xe9\n.png"))
    save("in.png").rename(source)
    target = save("out/a.png")
    write(source, target)
    assert is_proven(source, target)
