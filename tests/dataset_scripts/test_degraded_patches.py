"""Degraded patches drawn on the fly: the same for everybody who asks for (seed, epoch, index)."""

import itertools
import json
import re
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.transforms.functional import to_tensor

from dataset_scripts import (
    KINDS,
    RECIPES,
    DegradationRecipe,
    DegradedPatches,
    RealFields,
    RestorationSet,
    apply_degradations,
    from_record,
    load_synthetic,
    sample_degradation,
)
from dataset_scripts.decoding import Memory, Picture
from dataset_scripts.degradation_recipes import mark_kinds
from dataset_scripts.degradations import motion_kernel
from dataset_scripts.degraded_patches import BLUR_REACH, VARIED_BLUR_REACH, PatchSource, degrade_window
from dataset_scripts.transforms import Orientation, OrientedPicture, Window, to_float

from .conftest import draw_picture, encode

TENSORS = ("pixel_values", "labels", "severity")


def assert_same(examples, others):
    """Assert that two lists of examples or batches are bit-equal."""
    assert len(examples) == len(others)
    for example, other in zip(examples, others, strict=True):
        assert example["record"] == other["record"]
        assert all(torch.equal(example[name], other[name]) for name in TENSORS)


def differ(example, other) -> bool:
    return example["record"] != other["record"] and not torch.equal(example["labels"], other["labels"])


def test_example_has_the_promised_tensors(dataset):
    patches = DegradedPatches(dataset, patch_size=33)
    assert len(patches) == len(dataset)
    for example in patches:
        for name in ("pixel_values", "labels"):
            assert example[name].shape == (3, 33, 33)
            assert example[name].dtype == torch.float32
            assert example[name].is_contiguous()
            assert 0 <= example[name].min() <= example[name].max() <= 1
        drawn = {degradation.kind: degradation.severity for degradation in from_record(example["record"])}
        torch.testing.assert_close(example["severity"], torch.tensor([drawn.get(kind, 0.0) for kind in KINDS]))


def test_same_seed_epoch_and_index_give_the_same_example_in_any_order(dataset):
    forwards = [DegradedPatches(dataset, 32, seed=3)[index] for index in range(len(dataset))]
    patches = DegradedPatches(dataset, 32, seed=3)
    backwards = [patches[index] for index in reversed(range(len(dataset)))]
    assert_same(forwards, backwards[::-1])


def test_other_seed_epoch_or_index_gives_another_example(dataset):
    patches = DegradedPatches(dataset, 32, seed=3)
    first = patches[0]
    assert differ(first, DegradedPatches(dataset, 32, seed=4)[0])
    assert differ(first, patches[1])
    patches.set_epoch(1)
    assert differ(first, patches[0])


def test_degradation_does_not_depend_on_patch_size(dataset):
    records = [[example["record"] for example in DegradedPatches(dataset, size)] for size in (16, 48)]
    assert records[0] == records[1]


def test_batches_do_not_depend_on_the_number_of_workers(dataset):
    patches = DegradedPatches(dataset, 32)
    batches = [list(DataLoader(patches, batch_size=4, num_workers=workers)) for workers in (0, 1, 2)]
    assert_same(batches[0], batches[1])
    assert_same(batches[0], batches[2])


def test_persistent_workers_see_every_epoch_and_patch_size(dataset):
    patches = DegradedPatches(dataset, 32)
    loader = DataLoader(patches, batch_size=4, num_workers=2, persistent_workers=True)
    for epoch, patch_size in ((0, 32), (1, 32), (2, 48)):
        patches.set_epoch(epoch)
        patches.set_patch_size(patch_size)
        expected = DegradedPatches(dataset, patch_size)
        expected.set_epoch(epoch)
        assert_same(list(loader), list(DataLoader(expected, batch_size=4)))


def test_shuffled_epoch_visits_every_index_once(dataset):
    patches = DegradedPatches(dataset, 16)
    by_record = {example["record"]: index for index, example in enumerate(patches)}
    loader = DataLoader(patches, batch_size=2, num_workers=2, shuffle=True)
    visited = [by_record[record] for batch in loader for record in batch["record"]]
    assert visited != sorted(visited)
    assert sorted(visited) == list(range(len(dataset)))


def test_patch_size_set_amid_a_batch_does_not_mix_sizes(dataset):
    patches = DegradedPatches(dataset, 16)
    draw = patches._draw

    def draw_and_resize(*arguments):
        patches.set_patch_size(24)
        return draw(*arguments)

    patches._draw = draw_and_resize
    sizes = [batch["labels"].shape for batch in DataLoader(patches, batch_size=len(dataset) // 2, drop_last=True)]
    assert sizes == [(4, 3, 16, 16), (4, 3, 24, 24)]


def test_both_pictures_of_a_pair_are_cropped_flipped_and_turned_alike(dataset):
    for example in DegradedPatches(dataset, 40, severity=(0, 0)):
        torch.testing.assert_close(example["pixel_values"], example["labels"], rtol=0, atol=0)


def test_clean_patch_is_a_part_of_its_photograph_flipped_or_turned(dataset):
    patches = DegradedPatches(dataset.select([0]), 40)
    whole = np.asarray(dataset[0]["clean"])
    ways = set()
    for epoch in range(60):
        patches.set_epoch(epoch)
        patch = (patches[0]["labels"] * 255).round().byte().permute(1, 2, 0).numpy()
        scores = {}
        for flip, turns in itertools.product((False, True), range(4)):
            undone = np.rot90(patch, -turns)
            undone = np.ascontiguousarray(undone[:, ::-1] if flip else undone)
            scores[flip, turns] = cv2.matchTemplate(whole, undone, cv2.TM_SQDIFF).min()
        # OpenCV sums squares by a Fourier transform: an exact match comes out near 0, others above a million.
        assert min(scores.values()) < 100
        ways.add(min(scores, key=scores.get))
    assert len(ways) == 8


def test_small_photographs_are_reflected(dataset):
    patches = DegradedPatches(dataset.select([len(dataset) - 1]), patch_size=64, severity=(0, 0))
    small = to_tensor(dataset[len(dataset) - 1]["clean"])
    labels = patches[0]["labels"]
    assert labels.shape == (3, 64, 64)
    torch.testing.assert_close(labels.unique(), small.unique(), rtol=0, atol=0)


@pytest.mark.parametrize(
    "kinds",
    [
        ("haze",),
        ("rain",),
        ("snow",),
        ("blur",),
        ("jpeg",),
        ("blur", "jpeg"),
        ("rain", "snow", "blur"),
        ("file_jpeg",),
        ("blur", "file_jpeg"),
        ("jpeg", "file_jpeg"),
    ],
)
@pytest.mark.parametrize("corner", [(0, 0), (37, 61), (96, 136)])
@pytest.mark.parametrize("is_varied", [False, True])
def test_patch_looks_as_it_would_inside_the_whole_picture(kinds, corner, is_varied):
    picture = draw_picture(160, 200, seed=0)
    # Fine detail, so that a block or a kernel in the wrong place shows.
    picture = cv2.add(picture, np.random.default_rng(1).integers(40, size=picture.shape, dtype=np.uint8))
    record = [sample_degradation(kind, 1.0, np.random.default_rng(2), is_varied=is_varied) for kind in kinds]
    whole = apply_degradations(to_float(picture), record)
    window = Window(*corner, 64, 64)
    stored = OrientedPicture(Picture(encode(picture, "PNG")), Orientation(False, 0), 64)
    patch, clean = degrade_window(stored, window, record, {})
    expected, original = (image[corner[0] : corner[0] + 64, corner[1] : corner[1] + 64] for image in (whole, picture))
    # JPEG rounds to 8 bits; all else is the same to the rounding of float32.
    np.testing.assert_allclose(patch, expected, atol=1.01 / 255 if {"jpeg", "file_jpeg"} & set(kinds) else 1e-6)
    np.testing.assert_array_equal(clean, to_float(original))
    assert np.abs(patch - clean).mean() > 0.005


@pytest.mark.parametrize("seed", range(3))
def test_patch_of_uneven_motion_looks_as_it_would_inside_the_whole_picture(seed):
    picture = np.random.default_rng(seed).integers(256, size=(200, 200, 3), dtype=np.uint8)
    blur = sample_degradation("blur", 1.0, np.random.default_rng(seed), is_varied=True)
    farthest = {"stretch": 2.0, "bend": 0.0, "parallax": 0.3, "zoom": 0.35, "roll": -0.35, "exposure_gamma": 0.0}
    record = [replace(blur, parameters=blur.parameters | farthest)]
    whole = apply_degradations(to_float(picture), record)
    stored = OrientedPicture(Picture(encode(picture, "PNG")), Orientation(False, 0), 64)
    for top, left in ((0, 0), (61, 37), (136, 136)):
        patch, _ = degrade_window(stored, Window(top, left, 64, 64), record, {})
        np.testing.assert_allclose(patch, whole[top : top + 64, left : left + 64], atol=1e-6)


def test_margin_of_a_patch_covers_the_largest_blur():
    sizes = [motion_kernel(1.0, angle, bend).shape for angle in (0.0, 45.0, 90.0) for bend in (-1.0, 0.0, 1.0)]
    assert {size // 2 for shape in sizes for size in shape} == {BLUR_REACH}
    farthest = [
        motion_kernel(1.0, 30.0, 0.0, stretch=2.0, shake=shake, seed=seed).shape
        for shake in (0.0, 1.0)
        for seed in range(3)
    ]
    assert {size // 2 for shape in farthest for size in shape} == {VARIED_BLUR_REACH}


def test_shrunk_patch_is_a_part_of_its_photograph_made_smaller(dataset):
    unchanged = DegradationRecipe(identity_probability=1.0)
    source = PatchSource(RestorationSet(dataset, unchanged, scales=(0.5, 0.5)), Memory())
    patch = source.draw(0, 24, np.random.default_rng(1))["labels"].numpy().transpose(1, 2, 0)
    whole = Image.fromarray(np.asarray(dataset[0]["clean"])).reduce(2)
    views = [np.rot90(view, turns) for view in (np.asarray(whole), np.asarray(whole)[:, ::-1]) for turns in range(4)]
    distances = [
        np.abs(windows - 255 * patch.transpose(2, 0, 1)).max(axis=(2, 3, 4)).min()
        for windows in (np.lib.stride_tricks.sliding_window_view(view, (24, 24), axis=(0, 1)) for view in views)
    ]
    assert min(distances) <= 1


@pytest.mark.parametrize("scales", [(0.0, 1.0), (0.8, 0.5), (0.5, 1.5)])
def test_scales_outside_their_range_are_refused(dataset, scales):
    with pytest.raises(ValueError, match=re.escape(f"`scales` must be ascending and within (0, 1], got {scales}")):
        RestorationSet(dataset, DegradationRecipe(), scales=scales)


def test_single_kind_is_never_composed_with_itself(dataset):
    patches = DegradedPatches(dataset, 16, composite_probability=1, kinds=("noise",))
    assert all(len(json.loads(example["record"])) == 1 for example in patches)


def test_identity_leaves_the_patch_as_it_is_without_task_or_severity(dataset):
    example = draw(source_of(dataset, DegradationRecipe(identity_probability=1.0)), 0)
    assert torch.equal(example["pixel_values"], example["labels"])
    assert (example["task"], example["record"]) == ("clean", "[]")
    assert example["severity"].tolist() == [0.0] * 7
    assert mark_kinds("clean").tolist() == [0.0] * 7


def test_grey_patch_has_a_grey_clean_one(dataset):
    for probability in (0.0, 1.0):
        recipe = DegradationRecipe(
            identity_probability=probability, grey_probability=1.0, file_jpeg_probability=0.5 * (1 - probability)
        )
        for seed in range(12):
            example = draw(source_of(dataset, recipe), 1, seed=seed)
            for name in ("pixel_values", "labels"):
                assert torch.equal(example[name], example[name][:1].expand(3, -1, -1))
            assert torch.equal(example["pixel_values"], example["labels"]) == (probability == 1)
            assert {"grey"} <= {degradation.kind for degradation in from_record(example["record"])}
            assert (example["severity"] > 0).any() == (probability == 0)


def source_of(*members, **options) -> PatchSource:
    return PatchSource(RestorationSet(*members, **options), Memory())


def draw(source: PatchSource, index: int, patch_size: int = 24, seed: int = 5):
    return source.draw(index, patch_size, np.random.default_rng(seed))


@pytest.fixture(scope="module")
def pairs(folder, tmp_path_factory):
    """Stored pairs of every format and of several sizes, with noise that tells one place from another."""
    return load_synthetic("noise_sigma50", folder, cache_dir=tmp_path_factory.mktemp("pairs"))


@pytest.mark.parametrize("index", range(9))
def test_both_halves_of_a_stored_pair_are_cropped_flipped_and_turned_alike(pairs, index):
    source = source_of(pairs)
    clean = np.asarray(pairs[index]["clean"], np.float32) / 255
    degraded = np.asarray(pairs[index]["degraded"], np.float32) / 255
    # Where each clean patch lies is found in the clean picture; the degraded patch must lie there too.
    for seed in range(8):
        example = draw(source, index, 16, seed)
        found = []
        for flip, turns in itertools.product((False, True), range(4)):
            patches = [np.rot90(example[name].permute(1, 2, 0).numpy(), -turns) for name in TENSORS[:2]]
            noisy, plain = (np.ascontiguousarray(patch[:, ::-1] if flip else patch) for patch in patches)
            scores = cv2.matchTemplate(clean, plain, cv2.TM_SQDIFF)
            top, left = np.unravel_index(scores.argmin(), scores.shape)
            found.append(np.array_equal(degraded[top : top + 16, left : left + 16], noisy))
        assert any(found)


def test_stored_pair_tells_its_task_severity_and_record(pairs):
    example = draw(source_of(pairs), 0)
    assert example["task"] == "noise"
    torch.testing.assert_close(example["severity"], torch.tensor([0.0] * 6 + [0.5]))
    assert example["record"] == pairs[0]["record"]


def test_unknown_severity_is_nan_for_the_kinds_of_the_task(pairs):
    unknown = pairs.remove_columns(["task", "record"])
    unknown = unknown.add_column("task", ["haze+rain"] * len(pairs)).add_column("record", [""] * len(pairs))
    severity = draw(source_of(unknown), 0)["severity"]
    assert severity.isnan().tolist() == [True, True, False, False, False, False, False]
    assert severity.nan_to_num().sum() == 0
    assert mark_kinds("mixed").isnan().all()


def test_small_pairs_are_reflected_alike(pairs):
    small = len(pairs) - 1
    example = draw(source_of(pairs), small, patch_size=64)
    for name, column in (("pixel_values", "degraded"), ("labels", "clean")):
        values = to_tensor(pairs[small][column])
        torch.testing.assert_close(example[name].unique(), values.unique(), rtol=0, atol=0)


def test_pair_of_two_sizes_is_refused(dataset):
    shifted = dataset["clean"][1:] + dataset["clean"][:1]
    wrong = dataset.add_column("degraded", [None] * len(dataset)).cast_column("degraded", dataset.features["clean"])
    wrong = wrong.map(lambda _, index: {"degraded": shifted[index], "task": "rain", "record": ""}, with_indices=True)
    with pytest.raises(ValueError, match="`dataset` must hold pairs of one size, got .* beside 90 x 150 at index 0"):
        draw(source_of(wrong), 0)


def test_pairs_are_not_shrunk(pairs):
    with pytest.raises(ValueError, match=r"`scales` must be \(1, 1\) for pairs, got \(0.5, 1.0\)"):
        RestorationSet(pairs, scales=(0.5, 1.0))


def test_missing_column_is_refused(dataset):
    with pytest.raises(ValueError, match=r"`dataset` must have the columns .*, got none named \['degraded', "):
        RestorationSet(dataset)


def test_degraded_picture_that_is_missing_is_refused(dataset):
    without = dataset.add_column("degraded", [None] * len(dataset)).cast_column("degraded", dataset.features["clean"])
    without = without.add_column("task", ["clean"] * len(dataset)).add_column("record", [""] * len(dataset))
    with pytest.raises(ValueError, match="`dataset` must have a picture in column 'degraded', got none at index 0"):
        draw(source_of(without), 0)


def test_real_fields_keep_to_their_place_in_a_patch(tmp_path, dataset):
    (tmp_path / "depths/more").mkdir(parents=True)
    for row in dataset:
        # Near where the photograph is dark: the haze of a patch tells whether both were turned alike.
        dark = np.asarray(row["clean"].convert("L")) < 128
        name = row["file_name"].rsplit(".", 1)[0]
        cv2.imwrite(str(tmp_path / f"depths/{name}.png"), np.where(dark, 0, 65535).astype(np.uint16))
    source = source_of(dataset, RECIPES["haze_mid"], RealFields(depths=tmp_path / "depths"))
    for index in range(3):
        example = draw(source, index, 32, seed=index)
        assert from_record(example["record"])[0].field.endswith(".png")
        clean = example["labels"].permute(1, 2, 0).numpy()
        dark = cv2.cvtColor(clean, cv2.COLOR_RGB2GRAY) < 126 / 255
        assert dark.any()
        changed = (example["pixel_values"] - example["labels"]).abs().amax(dim=0).numpy() > 1e-6
        assert not changed[dark].any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"patch_size": 0}, "`patch_size` must be at least 1, got 0; 48 to 256 pixels are usual"),
        ({"seed": -1}, "`seed` must be at least 0, got -1; use any non-negative integer"),
        (
            {"severity": (0.5, 0.1)},
            r"`severity` must be a range within 0 and 1, got \(0.5, 0.1\); give \(lowest, highest\)",
        ),
        ({"severity": (0.5, 1.1)}, r"`severity` must be a range within 0 and 1, got \(0.5, 1.1\)"),
        ({"composite_probability": 1.5}, "`composite_probability` must be within 0 and 1, got 1.5; 0 means single"),
        ({"kinds": ("fog",)}, r"`kinds` must be some of haze, rain, .*, got \('fog',\); check the spelling"),
        ({"kinds": ()}, r"`kinds` must be some of haze, rain, .*, got \(\); check the spelling"),
    ],
)
def test_arguments_outside_their_range_are_refused(dataset, arguments, message):
    with pytest.raises(ValueError, match=message):
        DegradedPatches(dataset, **{"patch_size": 16, **arguments})


def test_negative_epoch_is_refused(dataset):
    with pytest.raises(ValueError, match="`epoch` must be at least 0, got -1; count epochs from 0"):
        DegradedPatches(dataset, 16).set_epoch(-1)
