"""Pairs by name, verified: what fits no layout is refused, and what cannot be used is reported."""

import os
import re
from dataclasses import replace
from pathlib import Path

import cv2
import datasets
import numpy as np
import pytest
from PIL import Image

from dataset_scripts.catalog import CORPORA, Corpus, Layout, Split
from dataset_scripts.pairing import (
    SUFFIXES,
    describe_layout,
    find_fault,
    find_pairs,
    list_pictures,
    locate_split,
    read_size,
    verify_pairs,
)

SPLITS = [(name, split) for name, corpus in CORPORA.items() for split in corpus.splits]


def save(path: Path, size: tuple[int, int] = (8, 6), **options) -> Path:
    """Save a black picture; parents are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(path, **options)
    return path


def make_corpus(layout: Layout, count: int | None = None) -> Corpus:
    split = Split(("part", "."), (layout,), count)
    return Corpus("made_up", "rain", "https://example.org/rain", "none", "Nobody, 2025", {"test": split})


PLAIN = make_corpus(Layout("degraded/{name}.png", "clean/{name}.png"))


def names_of(root: Path, layout: Layout) -> dict[str, str]:
    """Names of the pairs, degraded to clean, relative to the folder; nothing else may be wrong."""
    report = find_pairs(make_corpus(layout), "test", root)
    assert not str(report)
    return {pair.name: Path(pair.clean).relative_to(root).as_posix() for pair in report.pairs}


# Templates


@pytest.mark.parametrize(
    ("degraded", "clean", "files"),
    [
        # A word is as short as can be: the number before the first underscore.
        (
            "hazy/{scene}_*.png",
            "clear/{scene}.png",
            {"hazy/1_2_0.8.png": "clear/1.png", "hazy/10_2.png": "clear/10.png"},
        ),
        # A dot in a name is not the suffix, and suffixes may differ.
        ("hazy/{scene}_*.png", "clear/{scene}.png", {"hazy/0001_0.8_0.2.JPG": "clear/0001.webp"}),
        ("{a}/low/{n}.png", "{a}/high/{n}.png", {"x/low/1.png": "x/high/1.png", "y/low/1.png": "y/high/1.png"}),
        ("in/**/{n}.png", "out/{n}.png", {"in/1.png": "out/1.png", "in/a/b/2.png": "out/2.png"}),
        # Characters that mean something in expressions mean themselves; a folder's case may differ.
        ("a+b (1)/{n}.png", "GT/{n}.png", {"a+b (1)/[x].png": "gt/[x].png"}),
    ],
)
def test_template_pairs_names(tmp_path, degraded, clean, files):
    for name in {*files, *files.values()}:
        save(tmp_path / name)
    assert names_of(tmp_path, Layout(degraded, clean)) == files


def test_words_must_read_the_same_to_the_letter(tmp_path):
    save(tmp_path / "degraded/a.png")
    save(tmp_path / "clean/A.png")
    assert len(find_pairs(PLAIN, "test", tmp_path).unpaired) == 2


def test_first_folder_and_first_layout_that_fit_are_taken(tmp_path):
    layouts = (Layout("x/{n}.png", "y/{n}.png"), Layout("degraded/{n}.png", "clean/{n}.png"))
    corpus = replace(PLAIN, splits={"test": Split(("missing", "part", "."), layouts)})
    for name in ("part/degraded/1.png", "part/clean/1.png", "x/1.png", "y/1.png"):
        save(tmp_path / name)
    found = locate_split(corpus, "test", tmp_path)
    assert (found.root, found.layout) == (tmp_path / "part", layouts[1])
    (tmp_path / "part/clean/1.png").unlink()
    found = locate_split(corpus, "test", tmp_path)
    assert (found.root, found.layout) == (tmp_path, layouts[0])


# Faults


def test_two_clean_pictures_for_one_are_reported_not_guessed(tmp_path):
    clean = [save(tmp_path / f"clean/a.{suffix}") for suffix in ("jpg", "png")]
    degraded = save(tmp_path / "degraded/a.png")
    report = find_pairs(PLAIN, "test", tmp_path)
    assert report.pairs == ()
    assert report.unpaired == ((str(degraded), f"several clean pictures belong to it: {clean[0]}, {clean[1]}"),)


def test_clean_pictures_of_other_splits_are_no_fault(tmp_path):
    for name in ("degraded/a.png", "clean/a.png", "clean/b.png"):
        save(tmp_path / name)
    layout = PLAIN.splits["test"].layouts[0]
    assert find_pairs(make_corpus(layout), "test", tmp_path).unpaired
    assert not find_pairs(make_corpus(replace(layout, has_spare_clean=True)), "test", tmp_path).unpaired


def test_folder_of_an_unknown_task_has_no_place(tmp_path):
    layout = Layout("{task}/{n}.png", "clear/{n}.png", tasks={"low": "low_light"})
    for name in ("low/1.png", "fog/1.png", "clear/1.png"):
        save(tmp_path / name)
    report = find_pairs(make_corpus(layout), "test", tmp_path)
    assert [(pair.name, pair.task) for pair in report.pairs] == [("low/1.png", "low_light")]
    assert report.unpaired == ((str(tmp_path / "fog/1.png"), "it has no place in the layout"),)


def test_unreadable_clean_picture_says_how_many_pairs_it_costs(tmp_path):
    for name in ("hazy/1_1.png", "hazy/1_2.png", "hazy/2_1.png", "clear/2.png"):
        save(tmp_path / name)
    (tmp_path / "clear/1.png").parent.mkdir(exist_ok=True)
    (tmp_path / "clear/1.png").touch()
    report = find_pairs(make_corpus(Layout("hazy/{n}_*.png", "clear/{n}.png")), "test", tmp_path)
    assert [(pair.name, pair.index) for pair in report.pairs] == [("hazy/2_1.png", 2)]
    ((path, reason),) = report.unreadable
    assert path == str(tmp_path / "clear/1.png")
    assert reason.endswith("; 2 pairs need it")


def test_truncated_picture_is_found_by_decoding_only(tmp_path):
    path = save(tmp_path / "degraded/a.bmp")
    save(tmp_path / "clean/a.bmp")
    path.write_bytes(path.read_bytes()[:-20])
    assert "truncated" in find_fault(str(path))
    assert find_fault(str(path), decode=False) is None
    assert len(find_pairs(PLAIN, "test", tmp_path).unreadable) == 1
    assert len(verify_pairs(locate_split(PLAIN, "test", tmp_path), decode=False).pairs) == 1


def deep_colours(path):
    """Save a picture of 16 bits a channel, as programs for photographs write it."""
    cv2.imwrite(str(path), np.full((6, 8, 3), 40_000, np.uint16))


def frames(path):
    Image.new("RGB", (8, 6)).save(path, save_all=True, append_images=[Image.new("RGB", (8, 6), "white")])


@pytest.mark.parametrize(
    ("name", "write", "reason"),
    [
        ("deep.png", deep_colours, "mode RGB with 16 bits a channel has more than 8"),
        ("deep.tiff", deep_colours, "mode RGB with 16 bits a channel has more than 8"),
        ("animation.webp", frames, "it has 2 frames"),
        ("animation.png", frames, "it has 2 frames"),
        ("pages.tif", frames, "it has 2 frames"),
        ("pipe.png", os.mkfifo, "it is no regular file"),
        ("folder.png", os.mkdir, "it is no regular file"),
    ],
)
@pytest.mark.parametrize("decode", [True, False])
def test_files_of_other_depths_of_several_pictures_and_of_none_are_no_pictures(tmp_path, name, write, reason, decode):
    write(tmp_path / name)
    assert find_fault(str(tmp_path / name), decode=decode) == reason


def test_postscript_is_not_opened_whatever_it_is_called(tmp_path):
    (tmp_path / "page.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 6\n%%EndComments\nshowpage\n")
    with Image.open(tmp_path / "page.png") as image:
        assert image.format == "EPS"
    assert "cannot identify image file" in find_fault(str(tmp_path / "page.png"))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_pictures_of_8_bits_have_no_fault_in_any_format(tmp_path, suffix):
    assert find_fault(str(save(tmp_path / f"picture{suffix}"))) is None


def test_border_is_allowed_on_all_sides_or_none(tmp_path):
    layout = Layout("degraded/{name}.png", "clean/{name}.png", clean_border=10)
    for name, size in {"equal": (8, 6), "larger": (28, 26), "wider": (28, 6), "smaller": (4, 3)}.items():
        save(tmp_path / f"degraded/{name}.png")
        save(tmp_path / f"clean/{name}.png", size)
    report = find_pairs(make_corpus(layout), "test", tmp_path)
    assert [(Path(pair.name).stem, pair.clean_border) for pair in report.pairs] == [("equal", 0), ("larger", 10)]
    assert [Path(fault.path).stem for fault in report.unequal] == ["smaller", "wider"]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_size_is_that_of_the_picture_as_it_is_loaded(tmp_path, orientation, suffix):
    exif = Image.Exif()
    exif[0x112] = orientation
    path = save(tmp_path / f"a.{suffix}", exif=exif)
    loaded = datasets.Image().decode_example({"path": str(path), "bytes": None})
    assert read_size(str(path)) == loaded.size


@pytest.mark.parametrize(
    ("count", "text"), [(1, ""), (None, ""), (5, "5 pairs are published, 1 were found; check the download")]
)
def test_wrong_count_is_reported(tmp_path, count, text):
    for name in ("degraded/a.png", "clean/a.png"):
        save(tmp_path / name)
    report = find_pairs(make_corpus(PLAIN.splits["test"].layouts[0], count), "test", tmp_path)
    assert (report.count_expected, report.count_found) == (count, 1)
    assert str(report).splitlines()[1:] == ([text] if text else [])


def test_another_edition_counts_by_its_layout(tmp_path):
    for name in ("degraded/1.png", "clean/1.png"):
        save(tmp_path / name)
    edition = Layout("degraded/{name}.png", "clean/{name}.png", count=2)
    assert "2 pairs are published, 1 were found" in str(find_pairs(make_corpus(edition, 1), "test", tmp_path))
    assert [CORPORA["rain100h"].splits["test"].layouts[-1].count, CORPORA["rain100h"].splits["test"].count] == [
        200,
        100,
    ]


def test_links_to_one_clean_picture_make_several_pairs(tmp_path):
    target = save(tmp_path / "elsewhere/clean.png")
    save(tmp_path / "data/degraded/a.png")
    save(tmp_path / "data/degraded/b.png")
    (tmp_path / "data/clean").mkdir()
    for name in ("a", "b"):
        (tmp_path / f"data/clean/{name}.png").symlink_to(target)
    report = find_pairs(PLAIN, "test", tmp_path / "data")
    assert [pair.clean for pair in report.pairs] == [str(target)] * 2
    assert not report.unreadable


def test_hidden_and_other_files_are_passed_over(tmp_path):
    save(tmp_path / "degraded/a.png")
    (tmp_path / "degraded/._a.png").write_bytes(b"resource fork")
    (tmp_path / "readme.txt").write_text("not a picture")
    assert [picture.file_name for picture in list_pictures(tmp_path)] == ["degraded/a.png"]


# Refusals


@pytest.mark.parametrize(("name", "split"), SPLITS)
def test_missing_and_wrong_folders_say_where_to_get_the_corpus_and_how_it_must_look(tmp_path, name, split):
    corpus = CORPORA[name]
    save(tmp_path / "wrong/pictures/deeper/still/other.gif")
    layout = corpus.splits[split].layouts[0]
    parts = Path(corpus.splits[split].folders[0], layout.degraded or layout.clean).parts
    for folder, rule in {"missing": "must exist", "wrong": f"must hold {name} as published"}.items():
        with pytest.raises(FileNotFoundError, match=f"`data_dir` {rule}, got .*/{folder}; get it from ") as caught:
            find_pairs(corpus, split, tmp_path / folder)
        text = str(caught.value)
        assert f"get it from {corpus.source} and give the folder that looks like\n  data_dir/\n" in text
        assert all(re.search(rf"^ +{re.escape(part)}/?$", text, re.MULTILINE) for part in parts)


TREE = """\
get it from https://example.org/rain and give the folder that looks like
  data_dir/
    part/
      degraded/
        {name}.png
      clean/
        {name}.png
 . may stand in place of part"""


def test_layout_is_drawn_as_a_tree():
    assert describe_layout(PLAIN, "test") == TREE


def test_half_a_corpus_is_refused(tmp_path):
    save(tmp_path / "degraded/a.png")
    (tmp_path / "clean").mkdir()
    with pytest.raises(FileNotFoundError, match="`data_dir` must hold made_up as published, got "):
        find_pairs(PLAIN, "test", tmp_path)


def test_file_in_place_of_a_folder_is_refused(tmp_path):
    with pytest.raises(NotADirectoryError, match=r"`data_dir` must be a folder, got the file .*/a.png; get it from"):
        find_pairs(PLAIN, "test", save(tmp_path / "a.png"))


def test_no_folder_is_refused():
    with pytest.raises(ValueError, match="`data_dir` must be given, got None; get it from https://example.org/rain"):
        find_pairs(PLAIN, "test", None)


def test_unknown_split_is_refused(tmp_path):
    with pytest.raises(ValueError, match="`split` must be one of test for made_up, got 'train'; choose another"):
        find_pairs(PLAIN, "train", tmp_path)


@pytest.mark.parametrize("links", [{"one": ".", "other": "."}, {"one": "part", "part/two": "..", "part/three": ".."}])
def test_links_in_circles_end(tmp_path, links):
    save(tmp_path / "part/1.png")
    for name, target in links.items():
        (tmp_path / name).symlink_to(target, target_is_directory=True)
    found = {picture.path for picture in list_pictures(tmp_path)}
    assert found == {str(tmp_path / "part/1.png")}
    assert len(list_pictures(tmp_path)) < 10
