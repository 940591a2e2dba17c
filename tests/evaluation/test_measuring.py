"""Measuring: a method that fails on a picture is named, and the others are measured."""

from tqdm import tqdm

from evaluation.measuring import Meter, measure_all
from evaluation.pair_sets import Entry, PairSet
from restoration_metrics.scores import Scorer
from tests.restoring import photograph

SET = PairSet("street", "noise", "street", None, "", ())


def entry(index, seed=0):
    return Entry(index, f"{index}.png", lambda: (photograph(seed=seed), photograph(seed=seed + 1)))


def measure(restore, entries):
    records = []
    meter = Meter({"street": {"ours": lambda degraded: degraded, "theirs": restore}}, Scorer())
    with tqdm(total=len(entries), disable=True) as progress:
        failures = measure_all([(SET, each) for each in entries], meter, records.append, progress)
    return records, failures


def test_method_that_fails_is_named_and_the_others_go_on(capsys):
    def restore(degraded):
        if degraded.tobytes() == photograph(seed=5).tobytes():
            raise FloatingPointError("values that are not finite")
        return degraded

    records, failures = measure(restore, [entry(0), entry(1, seed=5), entry(2)])
    assert [record["index"] for record in records] == [0, 2]
    assert failures.gather() == {"street": ["1.png"]}
    assert capsys.readouterr().err.strip() == "1.png: theirs: values that are not finite"


def test_result_of_another_size_is_a_failure(capsys):
    records, failures = measure(lambda degraded: degraded.crop((0, 0, 12, 12)), [entry(0)])
    assert (records, failures.gather()) == ([], {"street": ["0.png"]})
    assert "`clean` must have the shape of `restored`" in capsys.readouterr().err


def test_error_without_a_text_is_named_by_its_type(capsys):
    def restore(degraded):
        raise MemoryError

    measure(restore, [entry(0)])
    assert capsys.readouterr().err.strip() == "0.png: theirs: MemoryError"
