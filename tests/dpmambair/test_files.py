import pytest

from dpmambair.files import replacing


def test_a_written_file_takes_its_place_with_its_folder(tmp_path):
    target = tmp_path / "new" / "a.png"
    with replacing(target) as temporary:
        assert temporary.parent == target.parent
        assert temporary.suffix == ".png"
        temporary.write_text("whole")
        assert not target.exists()
    assert [path.read_text() for path in target.parent.iterdir()] == ["whole"]


def test_an_interrupted_file_leaves_the_one_before(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("before")

    def write_half():
        with replacing(target) as temporary:
            temporary.write_text("half")
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        write_half()
    assert [path.read_text() for path in tmp_path.iterdir()] == ["before"]
