import asyncio
import re

import pytest
from restoration_page import page as module
from restoration_page.page import STYLES, build_page, draw_theme

from tests.demo.conftest import KINDS, MARKER, ROOT, forgetful
from tests.restoring import read


def build(restorer, examples=ROOT / "examples"):
    """Build a page as inside a server: without a running loop Gradio makes some, and leaves them open."""

    async def serve():
        return build_page(restorer, examples)

    return asyncio.run(serve())


@pytest.fixture(scope="module")
def page(loaded):
    return build(forgetful(loaded))


def component(page, name):
    (found,) = [block for block in page.blocks.values() if getattr(block, "elem_id", None) == name]
    return found


def test_page_opens_with_a_restored_example(page):
    before, after = component(page, "slider").value
    assert read(before["path"]).size == read(after["path"]).size == (348, 232)
    assert "low_light.png" in component(page, "caption").value
    assert component(page, "report").value.count('<th scope="row">') == 7
    assert component(page, "download").value["orig_name"] == "low_light-restored.png"


def test_slider_shows_pictures_without_loss(page):
    assert component(page, "slider").format == component(page, "examples").format == "png"


def test_every_shipped_example_is_offered(page):
    offered = [image["caption"] for image in component(page, "examples").value]
    assert sorted(offered) == sorted(["Low light", "Blur", "Haze", "JPEG", "Mixed", "Noise", "Rain", "Snow"])
    assert offered[0] == "Low light"


def test_page_names_its_model_and_its_limits(page):
    assert MARKER in component(page, "closing").value
    assert "can invent or remove detail" in component(page, "closing").value
    assert "up to 16 megapixels" in component(page, "limits").value


def test_strength_runs_from_nothing_to_exaggeration(page):
    strength = component(page, "strength")
    assert (strength.minimum, strength.value, strength.maximum) == (0, 1, 1.5)


def test_every_kind_is_repaired_until_some_are_left_out(page):
    repair = component(page, "repair")
    assert repair.visible
    assert repair.value == [kind for _, kind in repair.choices] == KINDS
    assert component(page, "ensemble").value is False
    assert "gain nothing" in component(page, "ensemble").info


def test_programs_see_one_endpoint(page):
    endpoints = page.get_api_info()["named_endpoints"]
    assert list(endpoints) == ["/restore"]
    parameters = {each["parameter_name"]: each for each in endpoints["/restore"]["parameters"]}
    assert list(parameters) == ["picture", "strength", "repair", "self_ensemble"]
    assert parameters["strength"]["parameter_default"] == 1
    assert not page.get_api_info()["unnamed_endpoints"]


def test_network_takes_one_picture_at_a_time_and_the_queue_ends(page):
    limits = {}
    for function in page.fns.values():
        if function.queue:
            limits.setdefault(function.concurrency_id, set()).add(function.concurrency_limit)
    assert limits == {"restoring": {1}, "showing": {2}}
    assert page._queue.max_size == module.MAX_QUEUE


def test_nothing_is_fetched_from_elsewhere(page):
    assert not page.analytics_enabled
    assert draw_theme()._stylesheets == []
    for styles in (draw_theme()._get_theme_css(), STYLES.read_text(encoding="utf-8")):
        assert "@import" not in styles
        assert {target.strip("\"'")[:5] for target in re.findall(r"url\(([^)]*)", styles)} <= {"data:"}


def test_folder_without_pictures_is_refused(restorer, tmp_path):
    with pytest.raises(ValueError, match=r"`examples` must be a folder with PNG pictures, got .*; restore the"):
        build(restorer, tmp_path)
