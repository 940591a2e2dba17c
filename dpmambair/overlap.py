"""Reading, working and writing at once: threads around the one worker, which should never wait for a file."""

import os
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

# Of the pictures that wait before the work, and of those after it: how many, and how many pixels in all.
AHEAD, PIXELS = 8, 2**23
READERS, WRITERS = 2, min(4, os.cpu_count() or 1)

Item, Read, Made, Written = (TypeVar(name) for name in ("Item", "Read", "Made", "Written"))


@dataclass(frozen=True)
class Steps(Generic[Item, Read, Made, Written]):
    """What is done with each item.

    Attributes:
        read: runs in a thread.
        size: width and height of what was read, pixels.
        work: runs in the caller's thread; takes items of one size, with what was read; returns their results.
        write: runs in a thread.
        together: the most items that `work` takes at once.
    """

    read: Callable[[Item], Read]
    size: Callable[[Read], tuple[int, int]]
    work: Callable[[Sequence[Item], Sequence[Read]], Sequence[Made]]
    write: Callable[[Item, Made], Written]
    together: int = 1


def overlap(items: Iterable[Item], steps: Steps[Item, Read, Made, Written]) -> Iterator[tuple[Item, Future[Written]]]:
    """Take all items through the steps, reading ahead and writing behind.

    What waits is bounded, in number and in pixels, so that large pictures do not fill the memory. However the
    iteration ends, nothing more is read then, and what was worked on is still written.

    Args:
        items: what to do; taken one by one, when there is room.
        steps: what is done with each.

    Yields:
        Each item with its result or the exception that one of its steps raised, in the order of the items.
    """
    run = _Run(iter(items), steps)
    try:
        while (group := run.take_group()) is not None:
            if group:
                run.fill()  # these are read during the work
                run.work(group)
            yield from run.finished()
        yield from run.finished(all_of_them=True)
    finally:
        run.readers.shutdown(cancel_futures=True)
        run.writers.shutdown()


class _Run(Generic[Item, Read, Made, Written]):
    def __init__(self, items: Iterator[Item], steps: Steps[Item, Read, Made, Written]) -> None:
        self.items, self.steps = items, steps
        self.readers = ThreadPoolExecutor(READERS, "reading")
        self.writers = ThreadPoolExecutor(WRITERS, "writing")
        self.reading: deque[tuple[Item, Future[Read]]] = deque()
        self.writing: deque[tuple[Item, Future[Written]]] = deque()
        # Of a picture, as the last one had them; no size is known before the first is read.
        self.pixels = PIXELS

    @property
    def room(self) -> int:
        return max(1, min(max(AHEAD, 2 * self.steps.together), PIXELS // self.pixels))

    def fill(self) -> None:
        """Read ahead as far as there is room."""
        while len(self.reading) < self.room:
            try:
                item = next(self.items)
            except StopIteration:
                return
            self.reading.append((item, self.readers.submit(self.steps.read, item)))

    def take_group(self) -> list[tuple[Item, Read]] | None:
        """Take the next items, of one size, that were read; none if the next one failed; None at the end.

        The one that failed joins what is finished, for the caller to yield: many in a row would fill the memory.
        """
        group: list[tuple[Item, Read]] = []
        while len(group) < self.steps.together:
            self.fill()
            if not self.reading:
                break
            item, future = self.reading[0]
            if future.exception():
                if group:
                    break  # in order: first the group, then the failure
                self.writing.append(self.reading.popleft())
                return []
            size = self.steps.size(future.result())
            self.pixels = max(1, size[0] * size[1])
            if group and size != self.steps.size(group[0][1]):
                break
            self.reading.popleft()
            group.append((item, future.result()))
        return group or None

    def work(self, group: list[tuple[Item, Read]]) -> None:
        """Work on a group; where that fails, on each of it alone."""
        items, read = zip(*group, strict=True)
        try:
            made = self.steps.work(items, read)
        except Exception as error:
            failure = _failed(error)
        else:
            for item, each in zip(items, made, strict=True):
                self.writing.append((item, self.writers.submit(self.steps.write, item, each)))
            return
        if len(group) == 1:
            self.writing.append((items[0], failure))
            return
        for each in group:
            self.work([each])

    def finished(self, all_of_them: bool = False) -> Iterator[tuple[Item, Future[Written]]]:
        """Yield what is finished, in order; and what is not, waiting for it, where too much is being written."""
        while self.writing and (all_of_them or self.writing[0][1].done() or len(self.writing) > self.room):
            item, future = self.writing.popleft()
            _forget_frames(future.exception())  # waits
            yield item, future


def _failed(error: BaseException) -> Future:
    _forget_frames(error)
    future: Future = Future()
    future.set_exception(error)
    return future


def _forget_frames(error: BaseException | None) -> None:
    """Let go of what an error keeps alive: whatever its frames had computed, when memory may be what was missing."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


__all__ = ["Steps", "overlap"]
