"""Recipes of degradations, their names, and the real masks and depths that they may use."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from dataset_scripts import (
    KINDS,
    RECIPES,
    DegradationRecipe,
    RealFields,
    apply_degradations,
    from_record,
    sample_degradation,
    to_record,
)
from dataset_scripts.degradation_recipes import name_task, severity_of
from dataset_scripts.degradations import PARAMETERS, jpeg_quality


def drawn_by(recipe: DegradationRecipe, count: int) -> list:
    rng = np.random.default_rng(0)
    return [recipe.draw(rng) for _ in range(count)]


def test_kinds_are_equally_likely_and_severities_fill_their_range():
    drawn = drawn_by(DegradationRecipe(KINDS, (0.2, 0.6), 0.0), 3500)
    assert {len(record) for record in drawn} == {1}
    counts = [sum(record[0].kind == kind for record in drawn) for kind in KINDS]
    # Five standard deviations of a binomial count.
    np.testing.assert_allclose(counts, 500, atol=105)
    severities = [record[0].severity for record in drawn]
    np.testing.assert_allclose(np.quantile(severities, (0, 0.5, 1)), (0.2, 0.4, 0.6), atol=0.015)


def test_kinds_with_weights_are_drawn_in_their_proportion():
    drawn = drawn_by(DegradationRecipe(KINDS, (0.2, 0.6), 0.0, {"jpeg": 3.0, "blur": 0.5}), 3000)
    counts = [sum(record[0].kind == kind for record in drawn) for kind in KINDS]
    weights = np.array([{"jpeg": 3.0, "blur": 0.5}.get(kind, 1.0) for kind in KINDS])
    np.testing.assert_allclose(counts, 3000 * weights / weights.sum(), atol=130)


@pytest.mark.parametrize("weights", [{"fog": 1.0}, {"rain": 0.0}])
def test_weights_of_no_kind_or_not_above_zero_are_refused(weights):
    with pytest.raises(ValueError, match="`weights` must be above 0, for kinds that exist"):
        DegradationRecipe(weights=weights)


def test_composites_have_two_or_three_different_kinds_as_often_as_asked():
    drawn = drawn_by(DegradationRecipe(KINDS, (0, 1), 0.4), 2000)
    assert all(len({degradation.kind for degradation in record}) == len(record) for record in drawn)
    shares = np.bincount([len(record) for record in drawn], minlength=4)[1:] / 2000
    np.testing.assert_allclose(shares, (0.6, 0.2, 0.2), atol=0.055)


ALL = {"identity_probability": 0.1, "grey_probability": 0.2, "file_jpeg_probability": 0.5, "varied_weather": True}


def test_identity_grey_pictures_and_files_are_as_frequent_as_asked():
    drawn = drawn_by(DegradationRecipe(KINDS, (0, 1), 0.2, **ALL), 3000)
    kinds = [[degradation.kind for degradation in record] for record in drawn]
    identities = [record for record in drawn if name_task(record) == "clean"]
    assert len(identities) / 3000 == pytest.approx(0.1, abs=0.03)
    assert np.mean(["grey" in names for names in kinds]) == pytest.approx(0.2, abs=0.04)
    assert np.mean(["file_jpeg" in names for names in kinds if "jpeg" not in names]) == pytest.approx(0.5, abs=0.05)
    assert not any({"jpeg", "file_jpeg"} <= set(names) for names in kinds)
    assert all(names.index("file_jpeg") == len(names) - 1 for names in kinds if "file_jpeg" in names)
    assert {degradation.kind for record in identities for degradation in record} == {"grey", "file_jpeg"}
    weather = [degradation for record in drawn for degradation in record if degradation.kind in ("rain", "snow")]
    assert all("hide" in degradation.parameters for degradation in weather)


def test_what_is_switched_off_changes_no_draw():
    # Benchmarks and weights rest on what recipes drew before these settings existed.
    (drawn,) = drawn_by(DegradationRecipe(("rain", "noise"), (0, 1), 1.0), 1)
    assert to_record(drawn) == (
        '[{"kind":"noise","severity":0.016527635528529094,"seed":87989972,"parameters":{}},'
        '{"kind":"rain","severity":0.8132702392002724,"seed":1394609703,"parameters":{"angle":8.5309,'
        '"density":1.1836,"length":1.0805,"softness":1.5481,"opacity":0.9263,"brightness":0.7507,"veil":0.2572}}]'
    )
    off = DegradationRecipe(KINDS, (0.1, 1.0), 0.2)
    on = replace(off, varied_weather=True)
    for seed in range(40):
        first, second = (recipe.draw(np.random.default_rng(seed)) for recipe in (off, on))
        assert first[0].kind == second[0].kind
        assert first[0].severity == second[0].severity
        if not {"haze", "rain", "snow"} & {degradation.kind for degradation in first}:
            assert first == second


def is_plain(degradation):
    ranges = PARAMETERS[degradation.kind]
    return degradation.parameters.keys() == ranges.keys() and all(
        low <= degradation.parameters[name] <= high for name, (low, high) in ranges.items()
    )


@pytest.mark.parametrize(
    ("switch", "kinds"),
    [("varied_weather", {"haze", "rain", "snow"}), ("varied_blur", {"blur"}), ("varied_light", {"low_light"})],
)
def test_each_switch_varies_its_own_kinds_alone(switch, kinds):
    drawn = drawn_by(replace(DegradationRecipe(KINDS, (0, 1), 0.3), **{switch: True}), 300)
    assert {one.kind for record in drawn for one in record if not is_plain(one)} == kinds


def test_half_of_varied_darkness_is_the_plain_one():
    drawn = drawn_by(DegradationRecipe(("low_light",), (0, 1), 0.0, varied_light=True), 400)
    # The wide ranges of three parameters are seldom met within the plain ones.
    assert np.mean([is_plain(one) for record in drawn for one in record]) == pytest.approx(0.5, abs=0.1)


def test_isolated_kind_comes_alone():
    recipe = DegradationRecipe(KINDS, (0.2, 0.6), 0.5, {"rain": 2.0}, **ALL)
    drawn = drawn_by(recipe.isolate("rain"), 40)
    assert {tuple(degradation.kind for degradation in record) for record in drawn} == {("rain",)}
    assert all(0.2 <= record[0].severity <= 0.6 and "hide" in record[0].parameters for record in drawn)
    assert drawn == drawn_by(replace(recipe, weights={}).isolate("rain"), 40)


@pytest.mark.parametrize("name", ["identity_probability", "grey_probability", "file_jpeg_probability"])
def test_probabilities_outside_their_range_are_refused(name):
    with pytest.raises(ValueError, match=f"`{name}` must be within 0 and 1, got 1.5; 0 means never"):
        DegradationRecipe(**{name: 1.5})


@pytest.mark.parametrize("sigma", [15, 25, 50])
def test_noise_recipes_have_the_sigma_of_their_name(sigma):
    (noise,) = RECIPES[f"noise_sigma{sigma}"].draw(np.random.default_rng(1))
    # A mid-grey so wide that nothing is clipped at sigma 15 and 25; at 50 the clipping is undone by the normal's law.
    grey = np.full((512, 512, 3), 0.5, np.float32)
    noisy = apply_degradations(grey, [noise])
    quantiles = np.quantile(noisy, (0.15865525, 0.84134475))
    assert np.ptp(quantiles) / 2 * 255 == pytest.approx(sigma, rel=0.01)


@pytest.mark.parametrize("quality", [10, 20, 40])
def test_jpeg_recipes_have_the_quality_of_their_name(quality):
    (jpeg,) = RECIPES[f"jpeg_q{quality}"].draw(np.random.default_rng(1))
    assert jpeg_quality(jpeg.severity) == quality


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_a_recipe_at_its_middle_and_one_over_its_range(kind):
    rng = np.random.default_rng(2)
    assert [(degradation.kind, degradation.severity) for degradation in RECIPES[f"{kind}_mid"].draw(rng)] == [
        (kind, 0.5)
    ]
    drawn = [RECIPES[kind].draw(rng) for _ in range(50)]
    assert {degradation.kind for record in drawn for degradation in record} == {kind}
    assert np.ptp([record[0].severity for record in drawn]) > 0.6


def test_recipes_of_all_kinds_differ_in_their_composites():
    counts = {name: {len(record) for record in drawn_by(RECIPES[name], 60)} for name in RECIPES if "_" in name}
    assert counts["seven_kinds"] == {1}
    assert counts["seven_kinds_composites"] == {1, 2, 3}
    assert {len(record) for record in drawn_by(RECIPES["composites"], 60)} == {2, 3}


@pytest.fixture
def fields(tmp_path):
    """Two masks of snow and the depth of one photograph."""
    for name, level in (("masks/a.png", 51), ("masks/more/b.png", 204), ("depths/scene.png", 0)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        picture = np.full((40, 60), level, np.uint8)
        picture[:, 30:] = 0 if level else 255
        cv2.imwrite(str(tmp_path / name), picture)
    return RealFields(tmp_path / "masks", tmp_path / "depths")


def plain(kind: str, severity: float):
    """A degradation without veil, so that only the field shows."""
    drawn = sample_degradation(kind, severity, np.random.default_rng(3))
    return replace(drawn, parameters=drawn.parameters | {"veil": 0.0}) if kind == "snow" else drawn


def test_every_mask_is_drawn_and_a_depth_goes_to_its_own_photograph(fields):
    rng = np.random.default_rng(0)
    masks = {fields.assign([plain("snow", 0.5)], "any.jpg", rng)[0].field for _ in range(20)}
    assert masks == {"a.png", "more/b.png"}
    assert fields.assign([plain("haze", 0.5)], "scene.jpg", rng)[0].field == "scene.png"
    assert fields.assign([plain("haze", 0.5)], "more/scene.jpg", rng)[0].field == ""
    assert fields.assign([plain("noise", 0.5)], "scene.jpg", rng)[0].field == ""


def test_nothing_is_drawn_without_masks(fields):
    rng = np.random.default_rng(0)
    RealFields().assign([plain("snow", 0.5), plain("haze", 0.5)], "scene.jpg", rng)
    assert rng.random() == np.random.default_rng(0).random()


@pytest.mark.parametrize(("severity", "layers"), [(0.25, 0.5), (0.5, 1), (1.0, 2)])
def test_real_snow_hides_what_its_mask_says(fields, severity, layers):
    snow = replace(plain("snow", severity), field="more/b.png")
    black = np.zeros((90, 130, 3), np.float32)
    degraded = apply_degradations(black, [snow], fields=fields.open([snow], 90, 130))
    hidden = 1 - (1 - 204 / 255) ** layers
    np.testing.assert_allclose(np.unique(degraded), (0, hidden * snow.parameters["brightness"]), atol=1e-6)
    # The mask is half white, and goes on beyond its border.
    assert np.mean(degraded > 0) == pytest.approx(0.5, abs=0.2)


def test_real_haze_follows_its_depth(fields):
    haze = replace(plain("haze", 0.6), field="scene.png")
    clean = np.full((80, 120, 3), 0.2, np.float32)
    degraded = apply_degradations(clean, [haze], fields=fields.open([haze], 80, 120))
    np.testing.assert_array_equal(degraded[:, :59], clean[:, :59])
    airlight = np.clip(
        haze.parameters["airlight"] + np.array((haze.parameters["red"], 0, haze.parameters["blue"])), 0, 1
    )
    transmission = np.exp(-2.5 * 0.6)
    np.testing.assert_allclose(degraded[40, 100], 0.2 * transmission + airlight * (1 - transmission), atol=1e-6)


@pytest.mark.parametrize("kind", ["haze", "snow"])
def test_real_field_of_a_crop_is_that_of_the_picture(fields, kind):
    (drawn,) = fields.assign([plain(kind, 0.8)], "scene.png", np.random.default_rng(0))
    picture = np.full((90, 130, 3), 0.3, np.float32)
    opened = fields.open([drawn], 90, 130)
    whole = apply_degradations(picture, [drawn], fields=opened)
    part = apply_degradations(picture[20:60, 30:90], [drawn], origin=(20, 30), size=(90, 130), fields=opened)
    np.testing.assert_array_equal(part, whole[20:60, 30:90])


def test_record_with_real_fields_replays_bit_equal(fields):
    record = fields.assign([plain("snow", 0.4), plain("haze", 0.4)], "scene.png", np.random.default_rng(0))
    again = from_record(to_record(record))
    assert again == record
    picture = np.full((50, 70, 3), 0.3, np.float32)
    first, second = (apply_degradations(picture, r, fields=fields.open(r, 50, 70)) for r in (record, again))
    np.testing.assert_array_equal(first, second)


def test_task_names_the_kinds_in_their_order():
    assert name_task([plain("noise", 0.1), plain("snow", 0.1)]) == "snow+noise"
    assert name_task([plain("grey", 1.0), plain("noise", 0.1), plain("file_jpeg", 1.0)]) == "noise"
    assert name_task([]) == "clean"


def test_severities_stand_in_the_order_of_the_kinds():
    record = [sample_degradation(kind, 0.25, np.random.default_rng(0)) for kind in ("noise", "haze")]
    assert severity_of(record).tolist() == [0.25, 0, 0, 0, 0, 0, 0.25]


# Errors


@pytest.mark.parametrize("given", [{}, {"snow": np.zeros((4, 4), np.float32)}])
def test_named_field_that_is_not_given_is_refused(given):
    haze = replace(plain("haze", 0.5), field="scene.png")
    with pytest.raises(
        ValueError, match="`fields` must hold the real fields that `record` names, .*scene.png.*; open"
    ):
        apply_degradations(np.zeros((8, 8, 3), np.float32), [haze], fields=given)


def test_depth_of_another_size_is_refused():
    haze = replace(plain("haze", 0.5), field="scene.png")
    with pytest.raises(
        ValueError, match=r"`fields` must give haze a depth of the picture's size \(8, 9\), got \(4, 4\)"
    ):
        apply_degradations(np.zeros((8, 9, 3), np.float32), [haze], fields={"haze": np.zeros((4, 4), np.float32)})


def test_field_of_a_kind_that_has_none_is_refused():
    with pytest.raises(ValueError, match="`field` must be empty for noise, got 'a.png'; haze and snow have fields"):
        replace(plain("noise", 0.5), field="a.png")


def test_field_of_a_folder_that_was_not_given_is_refused():
    snow = replace(plain("snow", 0.5), field="a.png")
    with pytest.raises(ValueError, match="`record` must name fields of known folders, got 'a.png' for snow; give"):
        RealFields().open([snow], 8, 8)


@pytest.mark.parametrize("name", ["snow_masks", "depths"])
def test_folder_without_fields_is_refused(tmp_path, name):
    with pytest.raises(
        ValueError, match=rf"`{name}` must be a folder of pictures \(.png, .*\), got none below .*; check"
    ):
        RealFields(**{name: tmp_path})


@pytest.mark.parametrize(
    "record",
    [
        "",
        "{",
        "3",
        "[1]",
        '{"kind":"rain"}',
        '[{"kind":"rain"}]',
        '[{"kind":"noise","severity":"strong","seed":1,"parameters":{}}]',
        '[{"kind":"noise","severity":1,"seed":1,"parameters":[]}]',
    ],
)
def test_broken_records_are_rejected(record: str) -> None:
    with pytest.raises(ValueError, match=r"`record` must be JSON of `to_record`, got '"):
        from_record(record)
