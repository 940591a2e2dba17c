"""The rules that settings obey: one text for the error message, one test."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from dataset_scripts import KINDS


@dataclass(frozen=True)
class Rule:
    """What a setting must be.

    Attributes:
        text: the rule in words, to follow "must be".
        holds: tells whether a value obeys it.
    """

    text: str
    holds: Callable[[Any], bool]


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, float) or _is_integer(value)


def _is_pair(value: object) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and all(map(_is_number, value))


def _is_schedule(value: object) -> bool:
    if not isinstance(value, tuple) or not value:
        return False
    if not all(_is_pair(pair) and all(map(_is_integer, pair)) for pair in value):
        return False
    return value[0][0] == 0 and all(a[0] < b[0] for a, b in pairwise(value)) and min(number for _, number in value) > 0


def _are_shares(value: dict[str, object]) -> bool:
    return len(value) > 0 and all(_is_number(share) and share > 0 for share in value.values())


POSITIVE_INTEGER = Rule("a positive integer", lambda value: _is_integer(value) and value > 0)
POSITIVE_INTEGER_OR_NULL = Rule(
    "a positive integer or null", lambda value: value is None or POSITIVE_INTEGER.holds(value)
)
WHOLE_NUMBER = Rule("an integer of at least 0", lambda value: _is_integer(value) and value >= 0)
POSITIVE = Rule("a number above 0", lambda value: _is_number(value) and value > 0)
AT_LEAST_ZERO = Rule("a number of at least 0", lambda value: _is_number(value) and value >= 0)
PROBABILITY = Rule("a number in [0, 1]", lambda value: _is_number(value) and 0 <= value <= 1)
FRACTION = Rule("a number in [0, 1)", lambda value: _is_number(value) and 0 <= value < 1)
PATH = Rule("a path", lambda value: isinstance(value, str) and value != "")
PATH_OR_NULL = Rule("a path or null", lambda value: value is None or PATH.holds(value))
PATHS = Rule("a list of paths", lambda value: isinstance(value, tuple) and all(map(PATH.holds, value)))
BETAS = Rule("two numbers in [0, 1)", lambda value: _is_pair(value) and all(0 <= beta < 1 for beta in value))
SEVERITY = Rule("two ascending numbers in [0, 1]", lambda value: _is_pair(value) and 0 <= value[0] <= value[1] <= 1)
SCALES = Rule("two ascending numbers in (0, 1]", lambda value: _is_pair(value) and 0 < value[0] <= value[1] <= 1)
SCHEDULE = Rule("a list of [step, patch size] with ascending steps from 0 and positive sizes", _is_schedule)
BATCH = Rule(
    "a positive integer, or a list of [step, patches] with ascending steps from 0 and positive numbers",
    lambda value: POSITIVE_INTEGER.holds(value) or _is_schedule(value),
)
WEIGHTS = Rule(
    "'balanced', 'natural' or an object with a positive share of each set",
    lambda value: value in ("balanced", "natural") or (isinstance(value, dict) and _are_shares(value)),
)
KIND_WEIGHTS = Rule(
    f"an object with numbers above 0 for some of {', '.join(KINDS)}",
    lambda value: isinstance(value, dict) and set(value) <= set(KINDS) and (not value or _are_shares(value)),
)
SPACING = Rule("an integer of at least 2", lambda value: _is_integer(value) and value >= 2)
BOOLEAN = Rule("true or false", lambda value: isinstance(value, bool))
OBJECT = Rule("an object of settings", lambda value: isinstance(value, dict))


def one_of(*choices: str | None) -> Rule:
    """Make the rule that a value is one of these."""
    return Rule(" or ".join("null" if choice is None else repr(choice) for choice in choices), choices.__contains__)


def some_of(what: str, choices: Collection[str], *, at_least: int = 0) -> Rule:
    """Make the rule that a value lists some of these, each once.

    Args:
        what: the plural of what they are.
        choices: they.
        at_least: how many it must list.
    """

    def holds(value: Any) -> bool:
        if not isinstance(value, tuple) or not all(isinstance(item, str) for item in value):
            return False
        return len(value) >= at_least and len(set(value) & set(choices)) == len(value)

    return Rule(f"a list of different {what} out of {', '.join(choices)}", holds)
