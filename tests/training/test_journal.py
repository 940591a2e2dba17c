from pathlib import Path

from PIL import Image

from training.journal import Journal


def write_journal(path: Path) -> Journal:
    journal = Journal(path)
    for step in (2, 4, 6):
        journal.write({"step": step, "loss": 1 / step, "lr": 1e-3})
    return journal


def test_cut_drops_later_records_and_an_unfinished_line(tmp_path: Path) -> None:
    journal = write_journal(tmp_path / "log.jsonl")
    with journal.path.open("a") as file:
        file.write('{"step": 4, "lo')
    journal.cut(4)
    assert journal.path.read_text().count("\n") == 2
    assert [record["step"] for record in journal.read()] == [2, 4]


def test_absent_journal_reads_as_empty_and_can_be_cut(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "log.jsonl")
    journal.cut(4)
    assert journal.read() == []


def test_plot_is_a_picture_and_leaves_no_unfinished_file(tmp_path: Path) -> None:
    journal = write_journal(tmp_path / "log.jsonl")
    journal.write({"step": 6, "validation_loss": 0.3})
    journal.plot(tmp_path / "loss.png")
    with Image.open(tmp_path / "loss.png") as plot:
        assert plot.convert("L").getextrema() == (0, 255)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.jsonl", "loss.png"]


def test_losses_below_zero_are_plotted_too(tmp_path: Path) -> None:
    journal = write_journal(tmp_path / "log.jsonl")
    journal.write({"step": 6, "loss": -4.2})
    journal.plot(tmp_path / "loss.png")  # a warning, which is an error here, if nothing were left to draw
    assert (tmp_path / "loss.png").is_file()
