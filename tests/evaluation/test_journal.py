import json

import pytest

from evaluation.journal import Journal

FACTS = {"date": "2026-01-02"}


def test_records_of_all_processes_and_starts_are_read_back(tmp_path):
    journal = Journal(tmp_path / "r.partial")
    journal.begin({"border": 0}, FACTS)
    for process, index in ((0, 0), (1, 1), (0, 2)):
        with journal.open(process) as writer:
            writer.append({"set": "lol", "index": index, "scores": {"psnr": float("inf")}})
    assert {key: record["scores"]["psnr"] for key, record in journal.read().items()} == dict.fromkeys(
        [("lol", 0), ("lol", 1), ("lol", 2)], float("inf")
    )
    assert len(list(journal.folder.glob("*.jsonl"))) == 3


def test_facts_are_those_of_the_first_start(tmp_path):
    journal = Journal(tmp_path / "r.partial")
    journal.begin({"sizes": (1, 2)}, FACTS)
    journal.begin({"sizes": (1, 2)}, {"date": "2027-01-01"})
    assert journal.read_facts() == FACTS


@pytest.mark.parametrize("settings", [{"border": 1}, {}, {"border": 0, "lpips": "alex"}])
def test_other_settings_are_refused(tmp_path, settings):
    journal = Journal(tmp_path / "r.partial")
    journal.begin({"border": 0}, FACTS)
    name = "lpips" if "lpips" in settings else "border"
    rule = (
        f"settings must be those of the run that was interrupted, got others for {name}; give the same ones, or delete"
    )
    with pytest.raises(ValueError, match=rule):
        journal.begin(settings, FACTS)


def test_torn_lines_are_left_out_wherever_they_are_torn(tmp_path):
    journal = Journal(tmp_path / "r.partial")
    journal.begin({}, FACTS)
    line = json.dumps({"set": "lol", "index": 1, "scores": {"psnr": 20.25}})
    first = json.dumps({"set": "lol", "index": 0}) + "\n"
    for length in range(len(line)):
        (journal.folder / "0-0.jsonl").write_text(first + line[:length])
        assert set(journal.read()) == {("lol", 0)}


def test_end_leaves_nothing(tmp_path):
    journal = Journal(tmp_path / "r.partial")
    journal.begin({}, FACTS)
    journal.open(0).__exit__()
    journal.end()
    assert list(tmp_path.iterdir()) == []
