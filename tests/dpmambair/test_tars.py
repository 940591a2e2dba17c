"""Tar archives: restored as WebDataset reads them, all else as it was."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import webdataset
from PIL import Image
from webdataset import tariterators

from dpmambair.shipped import SHIPPED
from modeling_dpmambair import Restorer
from tests.restoring import files_below, photograph, read, records_below, save

OPTIONS = ("--dtype", "float32", "--device", "cpu")


def encoded(suffix, seed=0):
    content = io.BytesIO()
    photograph(seed=seed).save(content, suffix)
    return content.getvalue()


def save_shard(path, samples=4):
    """Write a shard as WebDataset's own writer does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with webdataset.TarWriter(str(path), mtime=1) as shard:
        for number in range(samples):
            sample = {"png": encoded("PNG", number), "json": f'{{"number": {number}}}'.encode()}
            shard.write({"__key__": f"album/{number:04}", **sample, "mask.png": encoded("PNG", 100 + number)})


def samples_of(path):
    """Read a shard with WebDataset's own functions; its class leaves the file open."""
    with path.open("rb") as stream:
        members = tariterators.tar_file_expander([{"url": str(path), "stream": stream}])
        samples = list(tariterators.group_by_keys(members))
    return {sample["__key__"]: {key: value for key, value in sample.items() if key[0] != "_"} for sample in samples}


def test_the_pictures_of_every_sample_are_restored_and_all_else_is_kept(run):
    save_shard(Path("in/0.tar"))
    result = run("in/0.tar", "-o", "out", *OPTIONS)
    assert (result.exit_code, result.stdout, result.stderr) == (0, "restored 1 of 1 files into out\n", "")
    before, after = samples_of(Path("in/0.tar")), samples_of(Path("out/0.tar"))
    assert list(after) == list(before)
    for key, sample in before.items():
        assert {name: after[key][name] for name in ("json", "mask.png")} == {
            name: sample[name] for name in ("json", "mask.png")
        }
        picture = save("picture.png", Image.open(io.BytesIO(sample["png"])))
        run(picture, "-o", f"expected/{key}", *OPTIONS)
        restored = Image.open(io.BytesIO(after[key]["png"]))
        np.testing.assert_array_equal(restored, read(f"expected/{key}/picture.png"))
    (record,) = records_below("out")
    assert (record["restored"], record["copied"], record["failed"]) == (4, 8, {})


def test_the_pictures_of_an_archive_can_be_restored_together_and_told_of(run, monkeypatch):
    restore, sizes = Restorer.restore, []
    monkeypatch.setattr(Restorer, "restore", lambda self, x, *given: sizes.append(len(x)) or restore(self, x, *given))
    save_shard(Path("in/0.tar"), samples=3)
    options = ("--report", *OPTIONS)
    assert run("in/0.tar", "-o", "alone", *options, model=SHIPPED).exit_code == 0
    assert sizes == [1, 1, 1]
    result = run("in/0.tar", "-o", "together", *options, "--batch-size", 2, model=SHIPPED)
    assert (result.exit_code, result.stderr, sizes[3:]) == (0, "", [2, 1])
    alone, together = samples_of(Path("alone/0.tar")), samples_of(Path("together/0.tar"))
    assert list(together) == list(alone)
    told = [line.partition(": ")[0] for line in result.stdout.splitlines()[:-1]]
    assert told == [f"in/0.tar/{key}.png" for key in alone]
    (record,), (expected,) = records_below("together"), records_below("alone")
    for key, sample in alone.items():
        one, other = (np.int16(Image.open(io.BytesIO(each["png"]))) for each in (sample, together[key]))
        np.testing.assert_allclose(other, one, atol=1)
        for kind, values in expected["detected"][f"{key}.png"].items():
            assert record["detected"][f"{key}.png"][kind] == pytest.approx(values, abs=1e-3)


def test_an_archive_is_the_same_whenever_it_is_restored(run):
    save_shard(Path("in/0.tar"))
    for folder in ("one", "two"):
        run("in/0.tar", "-o", folder, *OPTIONS)
    assert Path("one/0.tar").read_bytes() == Path("two/0.tar").read_bytes()
    result = run("in/0.tar", "-o", "one", *OPTIONS)
    assert result.stdout == "restored 0 of 1 files into one (1 done before)\n"


def test_a_format_can_be_chosen_and_samples_stay_whole(run):
    save_shard(Path("in/0.tar"))
    run("in/0.tar", "-o", "out", "--format", "jpeg", *OPTIONS)
    for sample in samples_of(Path("out/0.tar")).values():
        assert sample.keys() == {"jpg", "json", "mask.png"}
        assert Image.open(io.BytesIO(sample["jpg"])).format == "JPEG"


def save_tar(path, files):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def test_a_picture_that_fails_is_left_out_and_told(run):
    save_tar(
        Path("in/0.tar"), {"a.png": encoded("PNG"), "b.png": b"no picture", "b.txt": b"b", "c.png": encoded("PNG")}
    )
    result = run("in/0.tar", "-o", "out", *OPTIONS)
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("in/0.tar/b.png: `image` must be a picture")
    with tarfile.open("out/0.tar") as archive:
        assert archive.getnames() == ["a.png", "b.txt", "c.png"]
    (record,) = records_below("out")
    assert record["failed"].keys() == {"b.png"}
    result = run("in/0.tar", "-o", "out", *OPTIONS)
    assert (result.exit_code, result.stdout) == (0, "restored 0 of 1 files into out (1 done before)\n")


def test_names_stay_apart_and_headers_fit_their_files(run):
    long_name = f"./{'x' * 120}/ä.png"
    files = {"k.jpg": encoded("JPEG"), "k.png": encoded("PNG"), long_name: encoded("PNG"), "./.hid.png": b"hidden"}
    save_tar(Path("in/0.tar"), files)
    run("in/0.tar", "-o", "out", "--format", "png", *OPTIONS)
    with tarfile.open("out/0.tar") as archive:
        assert archive.getnames() == ["k.jpg.png", "k.png", long_name, "./.hid.png"]
        for name in archive.getnames()[:3]:
            assert Image.open(archive.extractfile(name)).size == (24, 16)


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"no archive", "file could not be opened successfully"), (None, "no pictures in this archive")],
)
def test_what_is_no_archive_of_pictures_fails_alone(run, content, reason):
    save("in/good.png")
    if content:
        Path("in/bad.tar").write_bytes(content)
    else:
        save_tar(Path("in/bad.tar"), {"notes.txt": b"no picture"})
    result = run("in/good.png", "in/bad.tar", "-o", "out")
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"in/bad.tar: {reason}")
    assert files_below("out") == ["good.png", "manifest.jsonl"]


def test_a_second_name_of_a_picture_is_restored_too_as_its_first_may_change(run):
    Path("in").mkdir()
    with tarfile.open("in/0.tar", "w") as archive:
        content = encoded("JPEG")
        first, second, lost = tarfile.TarInfo("a.jpg"), tarfile.TarInfo("b.jpg"), tarfile.TarInfo("c.jpg")
        first.size = len(content)
        archive.addfile(first, io.BytesIO(content))
        for link, target in ((second, "a.jpg"), (lost, "nowhere.jpg")):
            link.type, link.linkname = tarfile.LNKTYPE, target
            archive.addfile(link)
    assert run("in/0.tar", "-o", "out", "--format", "png", *OPTIONS).exit_code == 0
    with tarfile.open("out/0.tar") as archive:
        assert archive.getnames() == ["a.png", "b.png", "c.jpg"]
        one, other = (archive.extractfile(name).read() for name in ("a.png", "b.png"))
        assert one == other
