import os
from pathlib import Path

import pytest

from training.checkpoints import (
    begin_checkpoint,
    find_checkpoint,
    finish_checkpoint,
    list_checkpoints,
    removed_on_failure,
)


def write_checkpoint(output: Path, step: int, keep: int = 9) -> Path:
    folder = begin_checkpoint(output, step)
    (folder / "weights").write_bytes(os.urandom(100))
    return finish_checkpoint(folder, {"step": step}, keep)


def test_newest_checkpoint_is_found_by_number_with_its_state(tmp_path: Path) -> None:
    for step in (9, 20, 100):
        write_checkpoint(tmp_path, step)
    assert find_checkpoint(tmp_path) == (tmp_path / "checkpoint-100", {"step": 100})


def test_only_the_newest_checkpoints_stay(tmp_path: Path) -> None:
    for step in (1, 2, 3, 10):
        write_checkpoint(tmp_path, step, keep=2)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["checkpoint-10", "checkpoint-3"]


def test_unfinished_checkpoint_is_neither_listed_nor_in_the_way(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, 1)
    (begin_checkpoint(tmp_path, 2) / "half").touch()
    assert find_checkpoint(tmp_path)[1] == {"step": 1}
    assert not (write_checkpoint(tmp_path, 2) / "half").exists()


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "manifest", "other manifest"])
def test_damaged_checkpoint_is_passed_over_with_a_warning(tmp_path: Path, damage: str) -> None:
    write_checkpoint(tmp_path, 1)
    folder = write_checkpoint(tmp_path, 2)
    weights, manifest = folder / "weights", folder / "manifest.json"
    content = weights.read_bytes()
    match damage:
        case "flip":
            weights.write_bytes(bytes([content[0] ^ 1]) + content[1:])
        case "truncate":
            weights.write_bytes(content[:50])
        case "remove":
            weights.unlink()
        case "manifest":
            manifest.write_text(manifest.read_text()[:20])
        case "other manifest":
            manifest.write_text("{}")
    with pytest.warns(UserWarning, match="checkpoint-2 is damaged .*; falling back to the one before"):
        assert find_checkpoint(tmp_path)[1] == {"step": 1}


def test_damaged_checkpoint_is_replaced_when_its_step_comes_again(tmp_path: Path) -> None:
    (write_checkpoint(tmp_path, 2) / "weights").unlink()
    write_checkpoint(tmp_path, 2)
    assert find_checkpoint(tmp_path)[1] == {"step": 2}


def test_damaged_checkpoints_of_later_steps_do_not_count_among_those_that_stay(tmp_path: Path) -> None:
    for step in (1, 2, 4):
        write_checkpoint(tmp_path, step)
    (tmp_path / "checkpoint-4" / "weights").unlink()
    write_checkpoint(tmp_path, 3, keep=1)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["checkpoint-3"]


def test_missing_checkpoint_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="`output` must hold an intact checkpoint for --resume, got"):
        find_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OSError(28, "No space left on device"), "`output` must have room for a checkpoint, got '[Errno 28] No space"),
        (
            RuntimeError("DataLoader worker (pid 7) is killed by signal: Terminated. "),
            "`output` must get a checkpoint while all data workers live, got 'DataLoader worker (pid 7) is killed by",
        ),
    ],
)
@pytest.mark.parametrize("has_one_before", [True, False])
def test_failed_checkpoint_says_what_failed_and_what_is_left(
    tmp_path: Path, error: Exception, text: str, has_one_before: bool
) -> None:
    if has_one_before:
        write_checkpoint(tmp_path, 1)
    with (
        pytest.raises(OSError, match="while writing checkpoint-2") as caught,
        removed_on_failure(begin_checkpoint(tmp_path, 2)),
    ):
        raise error
    assert text in str(caught.value)
    state = "checkpoint-1 is intact: " if has_one_before else "there is none before it: "
    assert state in str(caught.value)
    assert str(caught.value).endswith(", then --resume")
    assert not (tmp_path / "checkpoint-2.tmp").exists()
