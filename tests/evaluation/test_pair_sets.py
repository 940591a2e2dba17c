"""Sets of pairs: names find the pictures, and pictures are those that the data sets give."""

import numpy as np
import pytest
from PIL import Image
from skimage import data

from dataset_scripts import CORPORA, MIXTURES, load_restoration_dataset
from evaluation.pair_sets import Benchmark, open_benchmark, open_corpora, open_folders
from tests.dataset_scripts.miniatures import MINIATURES, build


@pytest.fixture
def photographs(tmp_path):
    folder = tmp_path / "cbsd68"
    folder.mkdir()
    Image.fromarray(data.astronaut()[:24, :31]).save(folder / "a.png")
    Image.fromarray(data.coffee()[:20, :20]).save(folder / "b.png")
    return folder


# In every layout: the tests of all corpora, and the only split of those that have none.
TESTED = [
    title
    for title in MINIATURES
    if title.split()[1] == ("test" if "test" in CORPORA[title.split()[0]].splits else "train")
]


@pytest.mark.parametrize("title", TESTED)
def test_every_corpus_opens_in_its_own_layouts(tmp_path, title):
    files, others = MINIATURES[title]
    name = title.split()[0]
    build(tmp_path, files, others)
    is_clean = "" in files.values()
    (found,) = open_corpora(f"{name}/jpeg_q20" if is_clean else name, tmp_path)
    assert len(found.entries) == len(files)
    for entry in found.entries:
        degraded, clean = entry.read()
        assert degraded.size == clean.size
        assert degraded.mode == clean.mode == "RGB"


@pytest.mark.parametrize("recipe", ["noise_sigma25", "jpeg_q20", "composites", "seven_kinds"])
def test_clean_corpora_are_degraded_as_the_data_sets_are(photographs, recipe):
    (found,) = open_corpora(f"cbsd68/{recipe}", photographs)
    rows = load_restoration_dataset(recipe, photographs, streaming=True)
    for entry, row in zip(found.entries, rows, strict=True):
        for picture, column in zip(entry.read(), ("degraded", "clean"), strict=True):
            np.testing.assert_array_equal(np.asarray(picture), np.asarray(row[column]))
        assert (entry.index, entry.name) == (row["index"], row["file_name"])


def test_tasks_follow_from_recipes_and_corpora(photographs):
    names = "cbsd68/noise_mid,cbsd68/composites,cbsd68/raindrops"
    assert [each.task for each in open_corpora(names, photographs)] == ["noise", "mixed", "raindrops"]


def test_protocol_opens_a_set_for_each_of_its_tasks(tmp_path):
    for _, test in MIXTURES["seven_tasks"].values():
        for corpus, _ in test.corpora:
            files, others = next(MINIATURES[title] for title in TESTED if title.split()[0] == corpus)
            build(tmp_path / corpus, files, others)
    sets = open_corpora("seven_tasks", tmp_path)
    assert [each.name for each in sets] == [
        *("reside6k", "rain100h", "snow100k", "lol+lsrw", "gopro", "bsd400/jpeg_mid", "bsd400/noise_mid")
    ]
    assert [each.task for each in sets] == list(MIXTURES["seven_tasks"])
    assert sets[3].published == 65
    assert [entry.index for entry in sets[3].entries] == list(range(len(sets[3].entries)))


def test_border_of_indoor_haze_is_cut_off_in_two_folders_too(tmp_path):
    (tmp_path / "degraded").mkdir()
    (tmp_path / "clean").mkdir()
    room = data.astronaut()[:60, :70]
    Image.fromarray(room).save(tmp_path / "clean/1.png")
    Image.fromarray(room[10:-10, 10:-10]).save(tmp_path / "degraded/1.png")
    (found,) = open_corpora("reside_sots_indoor", tmp_path)
    degraded, clean = found.entries[0].read()
    assert degraded.tobytes() == clean.tobytes()


def test_pictures_are_turned_upright(tmp_path):
    for role in ("degraded", "clean"):
        (tmp_path / role).mkdir()
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.fromarray(data.astronaut()[:16, :24]).save(tmp_path / role / "a.png", exif=exif)
    degraded, clean = open_folders(tmp_path / "degraded", tmp_path / "clean").entries[0].read()
    assert degraded.size == clean.size == (16, 24)


def test_pictures_without_partners_are_listed_up_to_a_number(tmp_path):
    (tmp_path / "degraded").mkdir()
    (tmp_path / "clean").mkdir()
    for number in range(25):
        Image.new("RGB", (16, 16)).save(tmp_path / f"degraded/{number}.png")
    with pytest.raises(
        ValueError, match=r"got 25 that are not; remove or rename them:(\n  .*is missing){20}\n  and 5 more"
    ):
        open_folders(tmp_path / "degraded", tmp_path / "clean")


def test_changed_files_change_the_listing(photographs):
    (before,) = open_corpora("cbsd68/noise_mid", photographs)
    Image.fromarray(data.coffee()[:21, :20]).save(photographs / "b.png")
    (after,) = open_corpora("cbsd68/noise_mid", photographs)
    assert before.listing != after.listing


def test_benchmark_draws_anew_for_each_degradation_and_picture(photographs):
    benchmark = Benchmark("two", "", ("noise", "haze+noise", "pixelated"), 0.5, 7)
    sets = open_benchmark(benchmark, photographs)
    assert [each.name for each in sets] == ["noise", "haze+noise", "pixelated"]
    pictures = [np.asarray(each.entries[0].read()[0]) for each in (*sets, *open_benchmark(benchmark, photographs))]
    assert all((one == other).all() for one, other in zip(pictures[:3], pictures[3:], strict=True))
    assert (pictures[0] != pictures[1]).any()


@pytest.mark.parametrize("kind", ["fog", "haze+fog", "pixelated+noise", ""])
def test_benchmark_of_an_unknown_degradation_is_refused(kind):
    with pytest.raises(
        ValueError, match="`kinds` must be of haze, .*, or kinds joined by \\+, got .*; correct the bench"
    ):
        Benchmark("one", "", (kind,), 0.5, 7)
