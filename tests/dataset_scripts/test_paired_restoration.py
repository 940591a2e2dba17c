"""The builder over published corpora, each as a miniature of the layout in which it is really distributed."""

import os
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from dataset_scripts.catalog import CORPORA
from dataset_scripts.degradations import KINDS
from dataset_scripts.paired_restoration import PairedRestoration, load_paired
from tests.dataset_scripts.miniatures import MINIATURES, SIZE, build, save

LOGGER = "dataset_scripts.paired_restoration"
miniatures = pytest.mark.parametrize("miniature", MINIATURES)


def read(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def reports(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == LOGGER]


def test_every_split_has_a_miniature():
    splits = {(name, split) for name, corpus in CORPORA.items() for split in corpus.splits}
    tested = {tuple(miniature.split()[:2]) for miniature in MINIATURES}
    # The two splits of these are made by the same rule.
    assert splits - tested == {("gopro_gamma", "train")}


@pytest.mark.parametrize("streaming", [False, True], ids=["table", "stream"])
@miniatures
def test_corpus_loads_in_its_true_layout(tmp_path, caplog, miniature, streaming):
    (name, split), (files, others) = miniature.split()[:2], MINIATURES[miniature]
    root = tmp_path / "data"
    build(root, files, others)
    rows = list(load_paired(name, root, split, cache_dir=tmp_path / "cache", streaming=streaming))
    for row, (degraded, clean) in zip(rows, sorted(files.items()), strict=True):
        assert degraded.endswith(row["file_name"])
        np.testing.assert_array_equal(np.asarray(row["clean"]), read(root / (clean or degraded)))
        if clean:
            np.testing.assert_array_equal(np.asarray(row["degraded"]), read(root / degraded))
        else:
            assert row["degraded"] is None
    assert [row["index"] for row in rows] == list(range(len(files)))
    assert all((row["severity"], row["record"]) == (None, "") for row in rows)
    # Nothing else is wrong with a miniature than that it is one.
    is_later = name.startswith("rain100") and "authors'" in miniature
    count = {"train": 1800, "test": 200}[split] if is_later else CORPORA[name].splits[split].count
    lines = [f"{count} pairs are published, {len(files)} were found; check the download"] if count else []
    assert [line for report in reports(caplog) for line in report.splitlines()[1:]] == lines
    assert {row["task"] for row in rows} == {CORPORA[name].task} or name == "cdd11"


def test_composites_are_named_by_their_kinds_in_order(tmp_path):
    build(tmp_path / "data", MINIATURES["cdd11 train"][0])
    dataset = load_paired("cdd11", tmp_path / "data", "train", cache_dir=tmp_path / "cache")
    tasks = dict(zip((name.split("/")[0] for name in dataset["file_name"]), dataset["task"], strict=True))
    words = {"low": "low_light"}
    for folder, task in tasks.items():
        kinds = {words.get(word, word) for word in folder.split("_")}
        assert task == "+".join(kind for kind in KINDS if kind in kinds)


def test_white_border_of_rooms_is_cut_off(tmp_path):
    root = tmp_path / "data"
    hazy, clear = save(root / "hazy/1400_1.png"), save(root / "gt/1400.png", (SIZE[0] + 20, SIZE[1] + 20))
    save(root / "hazy/1400_2.png", (SIZE[0] + 20, SIZE[1] + 20))
    dataset = load_paired("reside_sots_indoor", root, "test", cache_dir=tmp_path / "cache")
    np.testing.assert_array_equal(np.asarray(dataset[0]["degraded"]), read(hazy))
    np.testing.assert_array_equal(np.asarray(dataset[0]["clean"]), read(clear)[10:-10, 10:-10])
    np.testing.assert_array_equal(np.asarray(dataset[1]["clean"]), read(clear))


def test_grey_pictures_become_rgb(tmp_path):
    path = save(tmp_path / "classic5/lena.bmp", mode="L")
    (row,) = load_paired("classic5", tmp_path, "test", cache_dir=tmp_path / "cache")
    assert row["clean"].mode == "RGB"
    np.testing.assert_array_equal(np.asarray(row["clean"]), read(path))


def test_pictures_stay_where_they_are(tmp_path):
    build(tmp_path / "data", {"degraded/a.png": "clean/a.jpg"})
    dataset = load_paired("paired_folders", tmp_path / "data", "test", cache_dir=tmp_path / "cache")
    stored = dataset.cast_column("clean", datasets.Image(decode=False))[0]["clean"]
    assert stored == {"path": str(tmp_path / "data/clean/a.jpg"), "bytes": None}


def test_task_of_own_pairs_is_what_the_caller_says(tmp_path):
    build(tmp_path / "data", {"degraded/a.png": "clean/a.png"})
    arguments = {"cache_dir": tmp_path / "cache"}
    unknown = load_paired("paired_folders", tmp_path / "data", "test", **arguments)
    known = load_paired("paired_folders", tmp_path / "data", "test", task="blur", **arguments)
    assert (unknown["task"][:], known["task"][:]) == (["mixed"], ["blur"])


@pytest.fixture
def lol(tmp_path) -> Path:
    """LOL with one sound pair and all the faults that there can be."""
    root = tmp_path / "data"
    build(root, {f"our485/low/{n}.png": f"our485/high/{n}.png" for n in (1, 2, 3, 4)}, ("our485/low/5.png",))
    build(root, {}, ("our485/high/6.png", "our485/7.png"))
    save(root / "our485/high/2.png", (9, 6))
    (root / "our485/low/3.png").write_text("not a picture")
    (root / "our485/high/4.png").unlink()
    (root / "our485/high/4.png").symlink_to(root / "nowhere.png")
    return root


REPORT = """\
lol, split train, in {root}: 1 of 4 pairs can be used
3 unpaired; mend or remove:
  {root}/7.png: it has no place in the layout
  {root}/low/5.png: its clean picture high/5.png is missing
  {root}/high/6.png: no degraded picture low/{{name}}.png belongs to it
1 of unequal size; mend or remove:
  {root}/low/2.png: 8 x 6 pixels, its clean picture {root}/high/2.png has 9 x 6
2 unreadable; mend or remove:
  {root}/high/4.png: [Errno 2] No such file or directory: '{root}/high/4.png'
  {root}/low/3.png: cannot identify image file '{root}/low/3.png'
485 pairs are published, 4 were found; check the download"""


@pytest.mark.parametrize("visit", ["table", "table again", "stream"])
def test_all_faults_stand_in_one_report_with_their_paths(lol, tmp_path, caplog, visit):
    arguments = {"cache_dir": tmp_path / "cache", "streaming": visit == "stream"}
    if visit == "table again":
        load_paired("lol", lol, "train", **arguments)
        caplog.clear()
    rows = list(load_paired("lol", lol, "train", **arguments))
    # The index is the place among all pairs: it stays when the others are mended.
    assert [(row["file_name"], row["index"]) for row in rows] == [("low/1.png", 0)]
    assert reports(caplog) == [REPORT.format(root=lol / "our485")]


@pytest.mark.parametrize("streaming", [False, True])
def test_strict_refuses_a_faulty_corpus_with_the_report(lol, tmp_path, streaming):
    with pytest.raises(ValueError, match="`data_dir` must hold sound pairs, got: lol, split train") as caught:
        load_paired("lol", lol, "train", strict=True, cache_dir=tmp_path / "cache", streaming=streaming)
    assert REPORT.format(root=lol / "our485") in str(caught.value)


def test_strict_accepts_a_sound_corpus(tmp_path, caplog):
    build(tmp_path / "data", {"degraded/a.png": "clean/a.png"})
    load_paired("paired_folders", tmp_path / "data", "test", strict=True, cache_dir=tmp_path / "cache")
    assert not reports(caplog)


def test_corpus_without_a_sound_pair_is_refused(lol, tmp_path):
    (lol / "our485/low/1.png").write_text("not a picture")
    with pytest.raises(
        ValueError, match="`data_dir` must hold sound pairs, got: lol, split train, in .*: 0 of 4 pairs can"
    ):
        load_paired("lol", lol, "train", cache_dir=tmp_path / "cache")


def test_cache_notices_changed_added_and_removed_files(tmp_path):
    root = tmp_path / "data"

    def names() -> list[str]:
        dataset = load_paired("paired_folders", root, "test", cache_dir=tmp_path / "cache")
        return dataset["file_name"][:]

    build(root, {"degraded/a.bmp": "clean/a.bmp"})
    assert names() == ["degraded/a.bmp"]
    build(root, {"degraded/b.bmp": "clean/b.bmp"})
    assert names() == ["degraded/a.bmp", "degraded/b.bmp"]
    # Same name, same size: only the time tells, and what the file has become.
    changed = root / "clean/a.bmp"
    time = changed.stat().st_mtime_ns
    changed.write_bytes(b"x" * changed.stat().st_size)
    os.utime(changed, ns=(0, time + 1))
    assert names() == ["degraded/b.bmp"]
    changed.unlink()
    (root / "degraded/a.bmp").unlink()
    build(root, {"degraded/c.bmp": "clean/c.bmp"})
    assert names() == ["degraded/b.bmp", "degraded/c.bmp"]


def test_builder_prepares_all_splits_in_several_processes(tmp_path):
    root = tmp_path / "data"
    build(
        root,
        {f"our485/low/{n}.png": f"our485/high/{n}.png" for n in (1, 2, 3)} | {"eval15/low/1.png": "eval15/high/1.png"},
    )
    builder = PairedRestoration(
        config_name="lol", dataset_name="paired_restoration", cache_dir=tmp_path / "cache", data_dir=str(root)
    )
    builder.download_and_prepare(num_proc=2)
    splits = builder.as_dataset()
    assert {split: dataset["index"][:] for split, dataset in splits.items()} == {"train": [0, 1, 2], "test": [0]}


def test_stream_is_sharded_without_loss(tmp_path):
    build(tmp_path / "data", {f"degraded/{n}.png": f"clean/{n}.png" for n in range(9)})
    stream = load_paired("paired_folders", tmp_path / "data", "test", streaming=True, cache_dir=tmp_path / "cache")
    parts = [[row["index"] for row in stream.shard(4, part)] for part in range(4)]
    assert sorted(sum(parts, [])) == list(range(9))
    assert all(parts)


def test_builder_has_a_configuration_for_every_corpus():
    assert list(PairedRestoration.builder_configs) == list(CORPORA)


def test_unknown_corpus_is_refused(tmp_path):
    with pytest.raises(ValueError, match="`name` must be one of reside6k, .*, got 'lola'; see docs/data.md"):
        load_paired("lola", tmp_path, "train")


@pytest.mark.parametrize(("name", "task"), [("lol", "blur"), ("paired_folders", "smoke")])
def test_task_is_refused_where_the_corpus_knows_it_or_it_is_unknown(tmp_path, name, task):
    with pytest.raises(
        ValueError, match=f"`task` must be one of haze, .* only, got '{task}' for {name}; leave it out"
    ):
        load_paired(name, tmp_path, "train", task=task)
