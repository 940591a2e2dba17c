"""Which files are written: names of their own, that any file system takes, the same in every run."""

import os
from pathlib import Path

import pytest
from PIL import Image

from dpmambair.console import Problems
from dpmambair.jobs import make_jobs, name_apart, sort_jobs, tell_converted
from dpmambair.search import Search
from dpmambair.settings import Settings
from tests.restoring import save


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def jobs_of(*inputs, settings=Settings(), compare=False, grid=None):  # noqa: B008
    search = Search(Path("out"), Problems())
    for given in inputs:
        search.add(Path(given))
    return make_jobs(search.found, Path("out"), settings, compare, grid)


def names_of(*inputs, **options):
    return {str(job.source): job.name for job in jobs_of(*inputs, **options)}


@pytest.mark.parametrize(
    ("name", "format", "expected"),
    [
        ("a.JPG", None, "a.JPG"),
        ("a.jpeg", None, "a.jpeg"),
        ("a.tif", None, "a.tif"),
        ("a.jpeg", "jpeg", "a.jpeg"),
        ("a.png", "jpeg", "a.jpg"),
        ("a.webp", "avif", "a.avif"),
        ("a.gif", None, "a.gif"),
        ("a.bmp", None, "a.bmp"),
        ("a.HEIC", "tiff", "a.tif"),
        ("a.b.c.gif", "png", "a.b.c.png"),
        ("version 1.2", None, "version 1.2.png"),
        (".png", None, ".png.png"),
        ("shard.tar", "png", "shard.tar"),
    ],
)
def test_an_output_is_called_like_its_input_with_the_suffix_of_its_format(name, format, expected):
    assert names_of(name, settings=Settings(format=format)) == {name: expected}


def test_a_file_without_a_suffix_gets_that_of_its_content():
    save("IMG_1", format="JPEG")
    save("IMG_2.dat", format="WEBP")
    save("IMG_3", format="JPEG2000")
    expected = {"IMG_1": "IMG_1.jpg", "IMG_2.dat": "IMG_2.dat.webp", "IMG_3": "IMG_3.jp2"}
    assert names_of(*expected) == expected


def test_inputs_of_one_name_get_names_of_their_own():
    inputs = ["a/x.png", "b/x.png", "c/x.jpg", "c/x.gif", "d/x.gif", "x_2.png"]
    assert names_of(*inputs, settings=Settings(format="png")) == {
        "a/x.png": "x.png",
        "b/x.png": "x_3.png",
        "c/x.jpg": "x.jpg.png",
        "c/x.gif": "x.gif.png",
        "d/x.gif": "x_4.png",
        "x_2.png": "x_2.png",
    }


def test_a_file_whose_name_stays_keeps_it_wherever_it_stands_in_the_order():
    for name in ("a.jpg", "a.png"):
        save(f"in/{name}")
    assert names_of("in", settings=Settings(format="png")) == {"in/a.jpg": "a.jpg.png", "in/a.png": "a.png"}


def test_comparisons_get_names_of_their_own():
    jobs = jobs_of("in/photo.jpg", "in/photo.png", "in/photo_compare.png", "in/photo.tar", compare=True)
    assert [job.comparison and job.comparison.name for job in jobs] == [
        "photo_compare_2.png",
        "photo_compare_3.png",
        "photo_compare_compare.png",
        None,
    ]


@pytest.mark.parametrize("stem", ["x" * 255, "é" * 127, "写" * 85, "x" * 251, "\udce9" * 255])
def test_names_are_cut_to_what_file_systems_take(stem):
    suffix = ".gif" if len(os.fsencode(stem)) <= 251 else ""
    (job,) = jobs_of(stem + suffix, compare=True, settings=Settings(format="png"))
    for file in job.files.values():
        assert len(os.fsencode(file.name)) <= 255
        assert file.name.endswith(".png")
        assert set(file.name.removesuffix(".png").removesuffix("_compare")) == set(stem)


def test_long_names_that_are_cut_alike_stay_apart():
    names = [f"{'x' * 254}{letter}" for letter in "abc"]
    outputs = names_of(*names)
    assert len(set(outputs.values())) == 3
    assert outputs == names_of(*names)


def test_names_apart_are_stable_and_distinct_for_any_clash():
    wanted = ["x.png"] * 5 + ["x_2.png"] * 5
    given = ["x.gif"] * 5 + ["x_2.bmp"] * 5
    found = name_apart(wanted, given, set())
    assert len(set(found)) == 10
    assert found == name_apart(wanted, given, set())


def test_folders_that_are_one_count_as_one():
    Path("out/real").mkdir(parents=True)
    Path("out/link").symlink_to("real")
    save("in/real/a.png")
    save("in/link/a.png")
    assert sorted(names_of("in").values()) == ["link/a.png", "real/a_2.png"]


def test_an_output_over_an_input_is_refused_also_through_a_link():
    save("out/a.png")
    Path("in").mkdir()
    Path("in/a.png").symlink_to("../out/a.png")
    with pytest.raises(ValueError, match="`--output` must not overwrite inputs, got out/a.png; choose another"):
        jobs_of("in")
    with pytest.raises(ValueError, match="`--grid` must not overwrite inputs, got in/a.png"):
        jobs_of("in/a.png", settings=Settings(format="jpeg"), grid=Path("in/a.png"))


def test_existing_files_are_done_or_left_or_replaced_or_refused(capsys):
    jobs = jobs_of("a.png", "b.png", "c.png", compare=True)
    save("out/a.png")
    save("out/a_compare.png")
    save("out/b_compare.png")

    def names(kind, **options):
        outlook = sort_jobs(jobs, lambda job, name: name.startswith("a"), problems=problems, **options)
        return [job.name for job in getattr(outlook, kind)]

    problems = Problems()
    assert names("todo", overwrite=True, skip_existing=False) == ["b.png", "c.png"]
    assert names("skipped", overwrite=False, skip_existing=True) == ["b.png"]
    assert names("before", overwrite=False, skip_existing=True) == ["a.png"]
    assert problems.count == 0
    assert names("todo", overwrite=False, skip_existing=False) == ["c.png"]
    assert problems.count == 1
    assert capsys.readouterr().err == (
        "b.png: out/b_compare.png exists; give --overwrite to replace it, or --skip-existing to leave it\n"
    )


def test_formats_that_become_another_are_told(capsys, monkeypatch):
    monkeypatch.delitem(Image.SAVE, "GIF")
    jobs = jobs_of("a.png", "b.gif", "c.GIF", "d.bmp", "IMG_1")
    assert [job.name for job in jobs] == ["a.png", "b.png", "c.png", "d.bmp", "IMG_1.png"]
    tell_converted(jobs)
    expected = "note: written as PNG, because this Pillow does not write their own format: .gif (2)\n"
    assert capsys.readouterr().err == expected
