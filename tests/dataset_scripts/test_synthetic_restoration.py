"""The builder over folders of clean photographs."""

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from datasets import Image as ImageFeature
from datasets import Value
from PIL import Image, features

from dataset_scripts import (
    DegradationRecipe,
    SyntheticRestoration,
    apply_degradations,
    from_record,
    load_clean_photographs,
    load_synthetic,
)
from dataset_scripts.degradations import KINDS
from dataset_scripts.pairing import find_fault
from dataset_scripts.synthetic_restoration import list_photographs

from .conftest import draw_picture

NAMES = ["a.png", "b.jpg", "c.webp", "d.bmp", "e.tif", "f.TIFF", "g.JPEG", "more/a.png", "more/tiny.png"]


def save(path: Path, value: int = 0, mode: str = "RGB") -> Path:
    """Save a picture of one colour; parents are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (8, 6), value).save(path)
    return path


def test_every_format_is_found_in_order_and_decoded_by_pillow(folder, dataset):
    assert dataset.features == {
        "clean": ImageFeature(mode="RGB"),
        "file_name": Value("string"),
        "index": Value("int64"),
    }
    assert dataset["file_name"][:] == NAMES
    assert dataset["index"][:] == list(range(len(NAMES)))
    for row in dataset:
        with Image.open(folder / row["file_name"]) as expected:
            np.testing.assert_array_equal(np.asarray(row["clean"]), np.asarray(expected))


@pytest.mark.skipif(not features.check("avif"), reason="Pillow is built without AVIF")
def test_avif_is_found_and_decoded_by_pillow(tmp_path):
    for seed, name in enumerate(("a.avif", "more/B.AVIF")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(draw_picture(40, 56, seed)).save(tmp_path / name, "AVIF", quality=90)
    dataset = load_clean_photographs(tmp_path, cache_dir=tmp_path / "cache", strict=True)
    assert dataset["file_name"][:] == ["a.avif", "more/B.AVIF"]
    for row in dataset:
        with Image.open(tmp_path / row["file_name"]) as expected:
            np.testing.assert_array_equal(np.asarray(row["clean"]), np.asarray(expected))


def test_avif_without_its_decoder_says_what_to_do(tmp_path, monkeypatch):
    (tmp_path / "a.avif").write_bytes(b"any")
    monkeypatch.setattr("PIL.features.check", lambda feature: feature != "avif")
    with pytest.raises(ValueError, match="`pillow` must be built with AVIF, got Pillow .* without it; install pillow"):
        load_clean_photographs(tmp_path, cache_dir=tmp_path / "cache")


def test_recipe_with_identities_and_grey_pictures_stores_what_belongs_together(folder, tmp_path):
    recipe = DegradationRecipe(identity_probability=1.0, grey_probability=0.5)
    pairs = load_synthetic("seven_kinds", folder, cache_dir=tmp_path, recipe=recipe, seed=1)
    greys = 0
    for pair in pairs:
        assert (pair["task"], pair["severity"]) == ("clean", 0)
        np.testing.assert_array_equal(np.asarray(pair["degraded"]), np.asarray(pair["clean"]))
        original = Image.open(folder / pair["file_name"]).convert("RGB")
        is_grey = "grey" in pair["record"]
        greys += is_grey
        expected = original.convert("L").convert("RGB") if is_grey else original
        # Lumas near the middle of two levels may be rounded otherwise than by Pillow.
        np.testing.assert_allclose(np.asarray(pair["clean"], int), np.asarray(expected, int), atol=1 if is_grey else 0)
    assert 0 < greys < len(pairs)


def test_photographs_stay_where_they_are(folder, dataset):
    stored = dataset.cast_column("clean", ImageFeature(decode=False))[0]["clean"]
    assert stored == {"path": str(folder / "a.png"), "bytes": None}


@pytest.mark.parametrize("mode", ["L", "P", "1", "CMYK", "RGBA"])
def test_opaque_pictures_of_other_modes_become_rgb(tmp_path, mode):
    colour = (10, 20, 30, 255) if mode == "RGBA" else 0
    suffix = "tif" if mode == "CMYK" else "png"
    path = save(tmp_path / f"a.{suffix}", colour, mode)
    picture = load_clean_photographs(tmp_path, cache_dir=tmp_path / "cache")[0]["clean"]
    with Image.open(path) as expected:
        assert (picture.mode, picture.getpixel((0, 0))) == ("RGB", expected.convert("RGB").getpixel((0, 0)))


def test_several_folders_follow_each_other(tmp_path):
    for name in ("second/a.png", "first/b.png", "first/a.png"):
        save(tmp_path / name)
    dataset = load_clean_photographs([tmp_path / "second", tmp_path / "first"], cache_dir=tmp_path / "cache")
    assert dataset["file_name"][:] == ["a.png", "a.png", "b.png"]


def test_links_are_followed_and_hidden_and_other_files_passed_over(tmp_path):
    save(tmp_path / "elsewhere/a.png")
    (tmp_path / "photographs").mkdir()
    (tmp_path / "photographs/link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "photographs/._a.png").write_bytes(b"resource fork")
    (tmp_path / "photographs/readme.txt").write_text("not a picture")
    assert [photograph.file_name for photograph in list_photographs(tmp_path / "photographs")] == ["link/a.png"]


def test_streaming_gives_the_same_examples(folder, dataset, tmp_path):
    builder = SyntheticRestoration(cache_dir=tmp_path, dataset_name="clean_photographs", folders=folder)
    streamed = list(builder.as_streaming_dataset(split="train"))
    assert len(streamed) == len(dataset)
    for row, other in zip(dataset, streamed, strict=True):
        assert (row["index"], row["file_name"]) == (other["index"], other["file_name"])
        np.testing.assert_array_equal(np.asarray(row["clean"]), np.asarray(other["clean"]))


def test_stream_is_sharded_without_loss(folder, tmp_path):
    stream = SyntheticRestoration(cache_dir=tmp_path, folders=folder).as_streaming_dataset(split="train")
    parts = [[row["index"] for row in stream.shard(4, part)] for part in range(4)]
    assert sorted(sum(parts, [])) == list(range(len(NAMES)))
    assert all(parts)


def test_several_processes_build_the_same_table(folder, dataset, tmp_path):
    builder = SyntheticRestoration(cache_dir=tmp_path, dataset_name="clean_photographs", folders=[folder])
    builder.download_and_prepare(num_proc=2)
    assert builder.as_dataset(split="train")["file_name"][:] == dataset["file_name"][:]


@pytest.mark.ci
@pytest.mark.slow
def test_cache_is_used_again_in_another_process(folder, tmp_path):
    code = (
        "import sys; from dataset_scripts import SyntheticRestoration as Builder; "
        "print(Builder(cache_dir=sys.argv[1], dataset_name='d', folders=[sys.argv[2]]).cache_dir)"
    )
    arguments = [sys.executable, "-c", code, str(tmp_path), str(folder)]
    other = subprocess.run(arguments, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)
    ours = SyntheticRestoration(cache_dir=str(tmp_path), dataset_name="d", folders=[str(folder)])
    assert other.stdout.strip() == ours.cache_dir


def test_cache_notices_changed_added_and_removed_files(tmp_path):
    def colours() -> list[int]:
        dataset = load_clean_photographs(tmp_path / "photographs", cache_dir=tmp_path / "cache")
        return [row["clean"].getpixel((0, 0))[0] for row in dataset]

    first = save(tmp_path / "photographs/a.bmp", 1)
    assert colours() == [1]
    save(tmp_path / "photographs/b.bmp", 2)
    assert colours() == [1, 2]
    # Same name, same size: only the time tells, and what the file has become.
    first.write_bytes(b"x" * first.stat().st_size)
    os.utime(first, ns=(0, first.stat().st_mtime_ns + 1))
    assert colours() == [2]
    first.unlink()
    save(tmp_path / "photographs/c.bmp", 3)
    assert colours() == [2, 3]


@pytest.fixture
def damaged(tmp_path, folder):
    """Folder with one good picture and several that cannot be used, by name."""
    root = tmp_path / "damaged"
    save(root / "good.png")
    (root / "text.jpg").write_text("not a picture")
    (root / "empty.png").touch()
    (root / "truncated.jpg").write_bytes((folder / "b.jpg").read_bytes()[:-400])
    (root / "truncated.webp").write_bytes((folder / "c.webp").read_bytes()[:-400])
    (root / "broken.png").symlink_to(root / "nowhere.png")
    save(root / "deep.png", mode="I;16")
    save(root / "glass.png", (1, 2, 3, 254), mode="RGBA")
    return root


FAULTS = {
    "text.jpg": "cannot identify image file",
    "empty.png": "cannot identify image file",
    "truncated.jpg": "truncated",
    "truncated.webp": "",
    "broken.png": "No such file",
    "deep.png": "mode I;16 has more than 8 bits a channel",
    "glass.png": "it has transparent pixels",
}


@pytest.mark.parametrize("name", FAULTS)
def test_fault_is_named(damaged, name):
    assert FAULTS[name] in find_fault(str(damaged / name))


def test_sound_picture_has_no_fault(damaged):
    assert find_fault(str(damaged / "good.png")) is None


@pytest.mark.parametrize("visit", ["fresh", "cached"])
def test_unusable_files_are_left_out_and_reported_with_their_paths(damaged, tmp_path, caplog, monkeypatch, visit):
    logger = "dataset_scripts.synthetic_restoration"
    if visit == "cached":
        load_clean_photographs(damaged, cache_dir=tmp_path / "cache")
        caplog.clear()
    dataset = load_clean_photographs(damaged, cache_dir=tmp_path / "cache")
    assert dataset["file_name"][:] == ["good.png"]
    # The index is the place in the whole listing: it stays when the others are mended.
    assert dataset["index"][:] == [4]
    (record,) = [record for record in caplog.records if record.name == logger]
    assert record.getMessage().startswith("7 of 8 pictures cannot be used; mend or remove them:\n")
    assert all(f"\n  {damaged / name}: " in record.getMessage() for name in FAULTS)


def test_strict_refuses_unusable_files(damaged, tmp_path):
    with pytest.raises(ValueError, match="`folders` must hold readable pictures, got: 7 of 8 pictures cannot be used"):
        load_clean_photographs(damaged, cache_dir=tmp_path / "cache", strict=True)


def test_folder_of_unusable_files_is_refused(damaged, tmp_path):
    (damaged / "good.png").unlink()
    with pytest.raises(ValueError, match="`folders` must hold readable pictures, got: 7 of 7 pictures cannot be used"):
        load_clean_photographs(damaged, cache_dir=tmp_path / "cache")


def test_no_folder_is_refused():
    with pytest.raises(ValueError, match="`folders` must name at least one folder, got none; give the folder"):
        list_photographs([])


def test_missing_folder_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="`folders` must exist, got .*/missing; check the path"):
        list_photographs(tmp_path / "missing")


def test_file_in_place_of_a_folder_is_refused(tmp_path):
    with pytest.raises(NotADirectoryError, match="`folders` must be folders, got the file .*/a.png; check the path"):
        list_photographs(save(tmp_path / "a.png"))


def test_folder_without_pictures_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"`folders` must hold pictures \(.png, .jpg, .*\), got none below .*; check"):
        list_photographs(tmp_path)


def test_overlapping_folders_are_refused(folder):
    with pytest.raises(ValueError, match="`folders` must reach each picture once, got .*/more/a.png 2 times; name no"):
        list_photographs([folder, folder / "more"])


def test_folder_that_cannot_be_read_is_not_passed_over(folder, monkeypatch):
    scandir = os.scandir

    def refuse(path):
        if Path(path).name == "more":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(PermissionError, match="Permission denied: .*/more"):
        list_photographs(folder)


# Recipes


@pytest.fixture(scope="module")
def photographs(tmp_path_factory) -> Path:
    """Folder with a large grey picture and two smooth ones."""
    root = tmp_path_factory.mktemp("clean")
    Image.fromarray(np.full((512, 512, 3), 128, np.uint8)).save(root / "grey.png")
    for seed in range(2):
        Image.fromarray(draw_picture(90, 121, seed)).save(root / f"smooth{seed}.png")
    return root


def test_pairs_have_every_column_and_replay_from_their_record(photographs, tmp_path):
    pairs = load_synthetic("composites", photographs, cache_dir=tmp_path)
    names = {"degraded", "clean", "task", "severity", "record", "file_name", "index"}
    assert set(pairs.column_names) == names
    assert pairs.features["degraded"] == pairs.features["clean"] == ImageFeature(mode="RGB")
    for row in pairs:
        record = from_record(row["record"])
        assert row["task"].split("+") == sorted((d.kind for d in record), key=KINDS.index)
        assert row["severity"] == pytest.approx(max(d.severity for d in record))
        replayed = apply_degradations(np.asarray(row["clean"], np.float32) / 255, record)
        np.testing.assert_array_equal(np.asarray(row["degraded"]), np.rint(replayed * 255).astype(np.uint8))


@pytest.mark.parametrize("sigma", [15, 25])
def test_stored_noise_has_the_sigma_of_its_name(photographs, tmp_path, sigma):
    grey = load_synthetic(f"noise_sigma{sigma}", photographs, cache_dir=tmp_path)[0]["degraded"]
    assert np.std(np.asarray(grey, np.float64)) == pytest.approx(sigma, rel=0.01)


@pytest.mark.parametrize("quality", [10, 20, 40])
def test_stored_jpeg_equals_pillows_of_the_quality_of_its_name(photographs, tmp_path, quality):
    for row in load_synthetic(f"jpeg_q{quality}", photographs, cache_dir=tmp_path):
        file = io.BytesIO()
        row["clean"].save(file, "JPEG", quality=quality, subsampling="4:2:0")
        np.testing.assert_array_equal(np.asarray(row["degraded"]), np.asarray(Image.open(file)))


def test_same_seed_gives_the_same_pairs_streamed_or_stored_and_another_seed_others(photographs, tmp_path):
    stored = [row["record"] for row in load_synthetic("rain", photographs, cache_dir=tmp_path)]
    streamed = [row["record"] for row in load_synthetic("rain", photographs, streaming=True, cache_dir=tmp_path)]
    other = [row["record"] for row in load_synthetic("rain", photographs, seed=1, cache_dir=tmp_path)]
    assert stored == streamed
    assert not set(stored) & set(other)


def test_real_masks_are_used_when_given_and_a_changed_mask_is_noticed(photographs, tmp_path):
    def whiteness() -> float:
        pairs = load_synthetic("snow_mid", photographs, snow_masks=tmp_path / "masks", cache_dir=tmp_path / "cache")
        assert all(from_record(row["record"])[0].field == "m.png" for row in pairs)
        return float(np.mean([np.asarray(row["degraded"]).mean() for row in pairs]))

    save(tmp_path / "masks/m.png", (255, 255, 255))
    white = whiteness()
    save(tmp_path / "masks/m.png", (10, 10, 10))
    os.utime(tmp_path / "masks/m.png", ns=(0, 0))
    assert whiteness() < white - 30


def test_unknown_recipe_is_refused(photographs):
    with pytest.raises(ValueError, match="`name` must be one of noise_sigma15, .*composites, got 'fog'; check"):
        load_synthetic("fog", photographs)


def test_negative_seed_is_refused(photographs):
    with pytest.raises(ValueError, match="`seed` must be at least 0, got -1; use any non-negative integer"):
        load_synthetic("rain", photographs, seed=-1)
