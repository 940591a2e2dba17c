"""Degraded patches drawn on the fly: the same for everybody who asks for (seed, epoch, index)."""

import itertools
import json

import cv2
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from torchvision.transforms.functional import to_tensor

from dataset_scripts import (
    KINDS,
    DegradedPatches,
    DegradedPictures,
    apply_degradations,
    from_record,
    sample_degradation,
)
from dataset_scripts.degradations import motion_kernel
from dataset_scripts.degraded_patches import BLUR_REACH, DecodedPictures, degrade_window, sample_record
from dataset_scripts.transforms import Window, to_float

from .conftest import draw_picture

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


@pytest.mark.parametrize("kinds", [("haze",), ("blur",), ("jpeg",), ("blur", "jpeg")])
@pytest.mark.parametrize("corner", [(0, 0), (37, 61), (96, 136)])
def test_patch_looks_as_it_would_inside_the_whole_picture(kinds, corner):
    picture = draw_picture(160, 200, seed=0)
    # Fine detail, so that a block or a kernel in the wrong place shows.
    picture = cv2.add(picture, np.random.default_rng(1).integers(40, size=picture.shape, dtype=np.uint8))
    record = [sample_degradation(kind, 1.0, np.random.default_rng(2)) for kind in kinds]
    whole = apply_degradations(to_float(picture), record)
    window = Window(*corner, 64, 64)
    patch = degrade_window(picture, window, record)
    expected = whole[corner[0] : corner[0] + 64, corner[1] : corner[1] + 64]
    np.testing.assert_allclose(patch, expected, atol=1.01 / 255)
    assert np.abs(patch - to_float(picture)[corner[0] : corner[0] + 64, corner[1] : corner[1] + 64]).mean() > 0.005


def test_margin_of_a_patch_covers_the_largest_blur():
    sizes = [motion_kernel(1.0, angle, bend).shape for angle in (0.0, 45.0, 90.0) for bend in (-1.0, 0.0, 1.0)]
    assert {size // 2 for shape in sizes for size in shape} == {BLUR_REACH}


def test_kinds_are_equally_likely_and_severities_fill_their_range():
    rng = np.random.default_rng(0)
    drawn = [sample_record(KINDS, (0.2, 0.6), 0, rng) for _ in range(3500)]
    assert {len(record) for record in drawn} == {1}
    counts = [sum(record[0].kind == kind for record in drawn) for kind in KINDS]
    # Five standard deviations of a binomial count.
    np.testing.assert_allclose(counts, 500, atol=105)
    severities = [record[0].severity for record in drawn]
    np.testing.assert_allclose(np.quantile(severities, (0, 0.5, 1)), (0.2, 0.4, 0.6), atol=0.015)


def test_composites_have_two_or_three_different_kinds_as_often_as_asked():
    rng = np.random.default_rng(0)
    drawn = [sample_record(KINDS, (0, 1), 0.4, rng) for _ in range(2000)]
    assert all(len({degradation.kind for degradation in record}) == len(record) for record in drawn)
    shares = np.bincount([len(record) for record in drawn], minlength=4)[1:] / 2000
    np.testing.assert_allclose(shares, (0.6, 0.2, 0.2), atol=0.055)


def test_single_kind_is_never_composed_with_itself(dataset):
    patches = DegradedPatches(dataset, 16, composite_probability=1, kinds=("noise",))
    assert all(len(json.loads(example["record"])) == 1 for example in patches)


def test_whole_pictures_replay_from_their_record(dataset):
    pictures = DegradedPictures(dataset, "rain", 0.5, seed=1)
    assert len(pictures) == len(dataset)
    for index, example in enumerate(pictures):
        clean = to_tensor(dataset[index]["clean"])
        torch.testing.assert_close(example["labels"], clean, rtol=0, atol=0)
        replayed = apply_degradations(clean.permute(1, 2, 0).numpy(), from_record(example["record"]))
        np.testing.assert_array_equal(example["pixel_values"], replayed.transpose(2, 0, 1))
        assert_same([example], [DegradedPictures(dataset, "rain", 0.5, seed=1)[index]])


class Counting:
    """A dataset that counts how often it decodes each picture."""

    def __init__(self, dataset):
        self.dataset, self.visits = dataset, [0] * len(dataset)

    def select_columns(self, _):
        return self

    def __getitem__(self, index):
        self.visits[index] += 1
        return self.dataset[index]


def test_decoded_pictures_are_kept_within_their_bound(dataset):
    sizes = [np.asarray(row["clean"]).nbytes for row in dataset]
    counting = Counting(dataset)
    pictures = DecodedPictures(counting, cache_bytes=sum(sizes[:3]))
    for _ in range(4):
        for index in range(len(dataset)):
            np.testing.assert_array_equal(pictures[index], np.asarray(dataset[index]["clean"]))
    assert counting.visits[:4] == [1, 1, 1, 4]
    assert sum(size for size, visits in zip(sizes, counting.visits, strict=True) if visits == 1) <= sum(sizes[:3])


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


def test_negative_seed_of_whole_pictures_is_refused(dataset):
    with pytest.raises(ValueError, match="`seed` must be at least 0, got -1; use any non-negative integer"):
        DegradedPictures(dataset, "rain", 0.5, seed=-1)
