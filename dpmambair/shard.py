"""Which part of the work a process does, of several that share it."""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Shard:
    """One of several parts.

    Attributes:
        index: 1 to `count`.
        count: how many parts there are.
        is_launched: whether a launcher started this process and its siblings, and stops all where one fails.
    """

    index: int = 1
    count: int = 1
    is_launched: bool = False

    def has(self, name: str) -> bool:
        """Tell whether an output belongs to this part.

        The name alone decides, not the place in a list: processes that see different files, because some were added
        in the meantime, still agree.

        Args:
            name: of the output, its path below the output folder.
        """
        digest = hashlib.blake2b(os.fsencode(name), digest_size=8).digest()
        return int.from_bytes(digest, "big") % self.count == self.index - 1

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


def choose_shard(given: str | None, environment: Mapping[str, str]) -> Shard:
    """Return the shard that was asked for, or that of a process started by `accelerate launch` or `torchrun`.

    Args:
        given: `I/N`, or None.
        environment: may say RANK, from 0, and WORLD_SIZE.

    Raises:
        ValueError: no shard.
    """
    if given is not None:
        return _parse_shard("--shard", given, first=1)
    if {"RANK", "WORLD_SIZE"} <= set(environment):
        shard = _parse_shard("RANK/WORLD_SIZE", f"{environment['RANK']}/{environment['WORLD_SIZE']}", first=0)
        return replace(shard, is_launched=True)
    return Shard()


def _parse_shard(name: str, text: str, first: int) -> Shard:
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal() and first <= int(index) < int(count) + first):
        rule = f"I/N with I from {first} to {'N' if first else 'N - 1'}, got {text}"
        raise ValueError(f"`{name}` must be {rule}; the first of four is {first}/4")
    return Shard(int(index) + 1 - first, int(count))
