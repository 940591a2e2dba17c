"""The benchmark of many pictures: what it runs, and that it notices what it looks for."""

import numpy as np
import pytest
from PIL import Image

from benchmarks import bulk
from dpmambair.shipped import SHIPPED
from tests.documents import ROOT, check_command
from tests.restoring import photograph, read, save, save_random_model


def test_every_way_of_the_command_is_one_that_it_takes(monkeypatch):
    monkeypatch.chdir(ROOT)
    ways = bulk.list_ways(cores=4, together=8)
    assert [processes for processes, _ in ways.values()] == [1, 1, 1, 4]
    for _, arguments in [*ways.values()][1:]:
        _, *words = bulk.make_command(arguments, ROOT / "in", ROOT / "out", SHIPPED)
        check_command(" ".join(["python", *words[words.index("dpmambair.restore") - 1 :]]))


def test_pictures_are_cut_from_the_examples_and_are_the_same_in_every_run(tmp_path):
    for folder in ("one", "two"):
        bulk.make_pictures(tmp_path / folder, 9, 32)
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert len(names) == 9
    for name in names:
        assert read(tmp_path / "one" / name).size == (32, 32)
        np.testing.assert_array_equal(read(tmp_path / "one" / name), read(tmp_path / "two" / name))
    assert bulk.read_files(tmp_path / "one") == bulk.read_files(tmp_path / "two")


def test_the_largest_difference_is_that_of_the_levels(tmp_path):
    picture = np.asarray(photograph()).clip(3, None)
    for name, change in (("a", 0), ("b", 3)):
        save(tmp_path / "first" / f"{name}.png", Image.fromarray(picture))
        save(tmp_path / "second" / f"{name}.png", Image.fromarray(picture - np.uint8(change)))
    assert bulk.largest_difference(tmp_path / "first", tmp_path / "second") == 3
    assert bulk.largest_difference(tmp_path / "first", tmp_path / "first") == 0


def test_a_way_that_fails_is_no_measurement():
    with pytest.raises(RuntimeError, match="failed: .*No module named"):
        bulk.run([bulk.sys.executable, "-m", "dpmambair.nowhere"], threads=1)


@pytest.mark.slow
def test_the_loop_and_the_command_restore_alike_and_kills_change_nothing(tmp_path):
    model = save_random_model(tmp_path / "model")
    bulk.make_pictures(tmp_path / "degraded", 40, 32)
    for name, (_, arguments) in [*bulk.list_ways(cores=1, together=4).items()][:2]:
        assert bulk.run(bulk.make_command(arguments, tmp_path / "degraded", tmp_path / name, model), threads=1) > 0
    assert bulk.largest_difference(tmp_path / "command", tmp_path / "loop over the pipeline") <= 1
    killed = bulk.measure_kills(tmp_path, model, cores=1, number=40)
    assert killed["is_equal"]
    assert 1 <= killed["kills"][0] < killed["kills"][1] < 40
