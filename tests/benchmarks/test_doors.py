"""Odd pictures come out of every door alike, and as other programs know them; the table says so."""

import pytest

from benchmarks.doors import measure
from benchmarks.doors_table import doors_grid, render_doors
from tests.odd_pictures import ANIMATIONS, EVERYTHING, ODD_PICTURES, REFUSED, write_all
from tests.restoring import save_random_model

WORDS = {"exif": "EXIF", "gps": "place", "icc": "ICC", "xmp": "XMP", "dpi": "resolution", "text": "text"}


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    folder = tmp_path_factory.mktemp("doors")
    files = write_all(folder / "odd")
    return dict(
        zip([*ODD_PICTURES, *ANIMATIONS, *REFUSED], measure(files, save_random_model(folder / "model")), strict=True)
    )


@pytest.mark.ci
@pytest.mark.slow
def test_every_picture_comes_out_of_all_doors_alike(records):
    assert len(ODD_PICTURES) >= 60
    assert [str(odd) for odd, record in records.items() if not record["same"]] == []


@pytest.mark.ci
@pytest.mark.slow
def test_depth_channels_size_frames_and_metadata_are_those_that_went_in(records):
    for odd in (*ODD_PICTURES, *ANIMATIONS):
        restored = records[odd]["restored"]
        height, width = odd.first.shape[:2]
        found = (restored["bits"], restored["size"], restored["frames"], restored["upright"])
        assert found == (odd.bit_depth, (width, height), len(odd.frames), True), odd
        if odd in ODD_PICTURES:
            assert restored["mode"] == ("L" if odd.is_grey else "RGB") + ("A" if odd.has_alpha else ""), odd
            assert records[odd]["values"] == [height, width], odd
        assert {WORDS[name] for name in odd.keeps} <= set(restored["metadata"]), odd
    assert set(WORDS) == EVERYTHING


@pytest.mark.ci
@pytest.mark.slow
def test_what_is_no_picture_is_refused_at_every_door(records):
    assert all("refused" in records[refused] for refused in REFUSED)


def test_table_tells_what_comes_out():
    restored = {"format": "PNG", "mode": "LA", "bits": 16, "size": [18, 13], "frames": 1, "metadata": ["EXIF", "ICC"]}
    moving = {**restored, "frames": 3, "metadata": [], "upright": False}
    records = [
        {"name": "still", "same": True, "restored": {**restored, "upright": True}, "values": [13, 18]},
        {"name": "moving", "same": False, "restored": moving, "values": "one frame"},
        {"name": "text", "same": True, "refused": "no picture", "values": "no picture"},
    ]
    results = {"model": "tiny", "records": records}
    assert doors_grid(results)[1:] == [
        ["still", "PNG, LA, 16 bits, 18 x 13", "EXIF, ICC", "the same", "18 x 13"],
        ["moving", "PNG, LA, 16 bits, 18 x 13, 3 frames, not upright", "", "NOT the same", "refused"],
        ["text", "refused", "", "the same", "refused"],
    ]
    assert "2 files that are restored, with `tiny` in float32, and 1 that are refused" in render_doors(results)
