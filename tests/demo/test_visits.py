from pathlib import Path

import gradio as gr
import numpy as np
import pytest
from restoration_page import visits as module
from restoration_page.restorer import Control
from restoration_page.visits import View, Visits, Wish

from tests.demo.conftest import KINDS
from tests.odd_pictures import rgb_profile
from tests.restoring import photograph, read, save


@pytest.fixture
def picture(tmp_path):
    return str(save(tmp_path / "in" / "my <photo>.png"))


@pytest.fixture
def visits(restorer, picture, tmp_path):
    return Visits(restorer, [Path(picture), save(tmp_path / "in" / "snow.png", photograph((10, 8)))], tmp_path)


def test_download_is_the_whole_restored_picture(visits, restorer, picture):
    download = Path(visits.view(Wish(picture), 0.5).download)
    assert download.name == "my <photo>-restored.png"
    assert np.array_equal(read(download), restorer.at_strength(restorer.restore(picture), 0.5).image)


def test_downloads_of_two_strengths_do_not_overwrite_each_other(visits, picture):
    first, second = (Path(visits.view(Wish(picture), strength).download) for strength in (0, 1))
    assert not np.array_equal(read(first), read(second))


def test_download_keeps_the_colour_profile(visits, tmp_path):
    path = save(tmp_path / "profiled.png", photograph(), icc_profile=rgb_profile())
    assert read(visits.view(Wish(str(path)), 1).download).info["icc_profile"] == rgb_profile()


def test_before_is_the_degraded_picture(visits, picture):
    before, after = visits.view(Wish(picture), 1).pair
    assert np.array_equal(before, photograph())
    assert not np.array_equal(after, before)


def test_large_picture_is_shown_smaller_and_downloaded_in_full(visits, picture, monkeypatch):
    monkeypatch.setattr(module, "PREVIEW_SIDE", 12)
    view = visits.view(Wish(picture), 1)
    assert [each.size for each in view.pair] == [(12, 8), (12, 8)]
    assert read(view.download).size == (24, 16)
    assert "shown smaller, downloaded in full" in visits.tell(Wish(picture)).caption


def test_caption_names_the_picture_and_its_size(visits, picture):
    found = visits.tell(Wish(picture))
    assert found.caption == "<p><b>my &lt;photo&gt;.png</b> 24 &times; 16 pixels</p>"
    assert found.report.count('<th scope="row">') == 7


def test_touched_example_is_the_one_wanted(visits):
    touch = gr.SelectData(None, {"index": 1, "value": None})
    assert visits.begin_example(KINDS, False, touch)[0] == Wish(str(visits.examples[1]))


def test_nothing_of_the_former_picture_is_said_or_offered_while_another_is_worked_on(visits, picture):
    wanted, caption, report, download = visits.begin(picture, KINDS, False)
    assert (wanted, report, download["interactive"]) == (Wish(picture), "", False)
    assert caption == "<p><b>my &lt;photo&gt;.png</b> is being restored</p>"


def test_restored_picture_is_shown_described_and_offered_at_once(visits, picture):
    pair, download, caption, report = visits.show(visits.restore(Wish(picture)), Wish(picture), 0.5)
    view, found = visits.view(Wish(picture), 0.5), visits.tell(Wish(picture))
    assert all(np.array_equal(ours, theirs) for ours, theirs in zip(pair, view.pair, strict=True))
    assert np.array_equal(read(download["value"]), read(view.download))
    assert (download["interactive"], caption, report) == (True, *found)


def test_picture_that_is_not_wanted_any_more_is_not_shown(visits, picture):
    other, picture = Wish(str(visits.examples[1])), Wish(picture)
    assert visits.show(picture, other, 1) == visits.turn(picture, other, 1) == gr.skip()
    assert isinstance(visits.turn(picture, picture, 1), View)


def test_former_picture_comes_back_where_the_wanted_one_cannot_be_restored(visits, picture):
    wanted, _, download, caption, report = visits.go_back(Wish(picture), 1)
    assert (wanted, download["interactive"]) == (Wish(picture), True)
    assert (caption, report) == visits.tell(Wish(picture))


def test_programs_get_the_file_and_the_degradations(visits, restorer, picture):
    path, degradations = visits.serve(picture, 1.5)
    assert np.array_equal(read(path), restorer.at_strength(restorer.restore(picture), 1.5).image)
    assert degradations == restorer.restore(picture).degradations


def test_another_wish_for_the_same_picture_is_restored_anew(visits, restorer, picture):
    wanted, caption, *_ = visits.begin_again(Wish(picture), ["rain"], True)
    kept = tuple(kind for kind in KINDS if kind != "rain")
    assert wanted == Wish(picture, Control(kept, True))
    assert "is being restored" in caption
    download = read(visits.view(visits.restore(wanted), 1).download)
    assert np.array_equal(download, restorer.at_strength(restorer.restore(*wanted), 1).image)
    assert visits.show(Wish(picture), wanted, 1) == gr.skip()


def test_programs_may_say_what_is_repaired(visits, restorer, picture):
    path, _ = visits.serve(picture, repair=["rain", "noise"], self_ensemble=True)
    control = Control(("haze", "snow", "low_light", "blur", "jpeg"), True)
    assert np.array_equal(read(path), restorer.at_strength(restorer.restore(picture, control), 1).image)


def test_tiles_move_the_progress_bar(visits, picture):
    heard = []
    visits.restore(Wish(picture), lambda *position, **words: heard.append((*position, words["unit"])))
    assert heard == [((1, 1), "tiles")]


@pytest.mark.parametrize(
    "answer", [lambda v, p: v.restore(Wish(p)), lambda v, p: v.view(Wish(p), 1), lambda v, p: v.serve(p)]
)
def test_unusable_picture_gets_a_message_that_stays(visits, tmp_path, answer):
    path = tmp_path / "text.jpg"
    path.write_text("no picture")
    with pytest.raises(gr.Error, match="not a picture that can be read here") as caught:
        answer(visits, str(path))
    assert caught.value.duration is None
    assert not caught.value.print_exception
