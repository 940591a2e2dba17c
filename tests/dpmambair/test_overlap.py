"""Reading ahead and writing behind: order, bounds, failures, and that the worker does not wait."""

import threading
import time
import weakref
from contextlib import closing

import pytest

from dpmambair import overlap as overlapping
from dpmambair.overlap import Steps, overlap


class Features:
    """What a network computes, as far as memory goes."""


def outcomes(items, **steps):
    plain = {"read": lambda item: item, "size": lambda _: (1, 1), "work": lambda _, read: read}
    steps = Steps(**{**plain, "write": lambda _, made: made, **steps})
    return [(item, future.exception() or future.result()) for item, future in overlap(items, steps)]


def test_results_come_in_order_whatever_takes_long():
    def read(item):
        time.sleep(0.01 * (item % 3))
        return 10 * item

    def write(item, made):
        time.sleep(0.01 * (item % 2))
        return made + 1

    assert outcomes(range(30), read=read, write=write) == [(item, 10 * item + 1) for item in range(30)]


def test_the_next_is_read_and_the_former_written_during_the_work():
    read_begun, work_begun = ([threading.Event() for _ in range(10)] for _ in range(2))

    def work(items, read):
        work_begun[items[0]].set()
        assert items[0] == 9 or read_begun[items[0] + 1].wait(timeout=60)
        return read

    def write(item, _):
        assert item == 9 or work_begun[item + 1].wait(timeout=60)
        return item

    found = outcomes(range(10), read=lambda item: read_begun[item].set(), work=work, write=write)
    assert found == [(item, item) for item in range(10)]


def test_a_failure_of_any_step_is_the_outcome_of_its_item_alone():
    def fail(step):
        def call(item, *rest):
            if item == step:
                raise ValueError(f"{step}")
            return item

        return call

    found = dict(
        outcomes(range(6), read=fail(1), work=lambda items, _: [fail(3)(items[0])], write=fail(4)),
    )
    assert {item: str(result) for item, result in found.items()} == {item: str(item) for item in range(6)}
    assert [item for item, result in found.items() if isinstance(result, ValueError)] == [1, 3, 4]


@pytest.mark.parametrize("pixels", [1, overlapping.PIXELS // 3, 2 * overlapping.PIXELS])
def test_what_waits_is_bounded_by_number_and_by_pixels(pixels):
    waiting, most = 0, 0
    lock = threading.Lock()

    def count(change):
        nonlocal waiting, most
        with lock:
            waiting += change
            most = max(most, waiting)

    def read(item):
        count(1)
        return item

    def work(_, read):
        time.sleep(0.002)  # far slower than reading
        count(-1)
        return read

    outcomes(range(60), read=read, size=lambda _: (pixels, 1), work=work)
    room = max(1, min(overlapping.AHEAD, overlapping.PIXELS // pixels))
    assert most <= 1 + room  # one is worked on
    assert pixels > 1 or most > 4


def test_items_of_one_size_are_worked_on_together_in_order():
    groups = []

    def work(items, read):
        groups.append(list(items))
        return read

    found = outcomes("aabbbbac", size=lambda read: (ord(read), 1), work=work, together=3)
    assert groups == [["a", "a"], ["b", "b", "b"], ["b"], ["a"], ["c"]]
    assert found == [(item, item) for item in "aabbbbac"]


def test_where_a_group_fails_each_of_it_is_tried_alone():
    def work(items, read):
        if 2 in items:
            raise MemoryError
        return read

    found = outcomes(range(4), work=work, together=4)
    assert [item for item, result in found if isinstance(result, MemoryError)] == [2]


def test_an_end_before_its_time_writes_what_was_worked_on_and_reads_no_more():
    read_items, written = [], []
    steps = Steps(
        read=lambda item: read_items.append(item) or item,
        size=lambda _: (1, 1),
        work=lambda _, read: read,
        write=lambda item, _: time.sleep(0.02) or written.append(item),
    )
    with closing(overlap(range(1000), steps)) as results:
        next(results)
    assert sorted(written) == list(range(len(written)))
    assert len(written) > 0
    assert len(read_items) < 100
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("reading", "writing"))]


def test_failures_in_a_row_are_told_one_by_one():
    read_items = []

    def fail(item):
        read_items.append(item)
        raise ValueError

    steps = Steps(read=fail, size=lambda _: (1, 1), work=lambda _, read: read, write=lambda _, made: made)
    with closing(overlap(range(1000), steps)) as results:
        for number in range(3):
            item, future = next(results)
            assert (item, type(future.exception())) == (number, ValueError)
    assert len(read_items) < 50


@pytest.mark.parametrize("step", ["read", "work", "write"])
def test_a_failure_holds_nothing_of_what_was_computed(step):
    kept = []

    def fail(*_):
        features = Features()
        kept.append(weakref.ref(features))
        raise MemoryError

    ((_, error),) = outcomes([0], **{step: fail})
    assert isinstance(error, MemoryError)
    assert kept[0]() is None


def test_where_a_group_fails_its_features_are_gone_when_each_is_tried_alone():
    kept, alive = [], []

    def work(items, read):
        alive.append(sum(features() is not None for features in kept))
        features = Features()
        kept.append(weakref.ref(features))
        if len(items) > 1:
            raise MemoryError
        return read

    outcomes(range(4), work=work, together=4)
    assert alive == [0] * 5
