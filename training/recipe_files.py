"""Reading recipe files: one may extend another, and the command line changes single settings."""

import json
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

Content = dict[str, Any]

# Settings whose plain text on the command line is a list, "A,B".
LISTS = {("data", "clean_dirs"), ("data", "corpora"), ("training", "trackers")}


def read_recipe_file(path: Path, overrides: Sequence[str] = ()) -> Content:
    """Read a recipe's sections, those of the recipe that it `extends` underneath its own.

    Args:
        path: JSON file; `extends` names another, relative to it.
        overrides: "section.name=VALUE" each; VALUE is JSON or plain text.

    Returns:
        Section name to setting name to value, not yet checked.

    Raises:
        ValueError: no JSON, recipes that extend each other in a circle, an override of another form.
        FileNotFoundError: no such file.
    """
    return _override(_read(Path(path), ()), overrides)


def _read(path: Path, extending: tuple[Path, ...]) -> Content:
    if not path.is_file():
        raise FileNotFoundError(
            f"`config` must be an existing JSON recipe, got {str(path)!r}; see configuration/train"
        )
    if path.resolve() in extending:
        raise ValueError(
            f"`extends` must lead to a recipe without it, got a circle through {str(path)!r}; break it there"
        )
    try:
        content = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"`config` must be JSON, got {str(path)!r} with {error}; correct it there") from error
    if not isinstance(content, dict):
        raise ValueError(
            f"`config` must be a JSON object, got {str(path)!r} with {type(content).__name__}; see configuration/train"
        )
    if "extends" not in content:
        return content
    base = _read(path.parent / content.pop("extends"), (*extending, path.resolve()))
    return _merge(base, content)


def _merge(base: Content, above: Content) -> Content:
    merged = dict(base)
    for section, settings in above.items():
        both_are_sections = isinstance(settings, dict) and isinstance(base.get(section), dict)
        merged[section] = base[section] | settings if both_are_sections else settings
    return merged


def _override(content: Content, overrides: Sequence[str]) -> Content:
    changed = deepcopy(content)
    for override in overrides:
        path, equals, text = override.partition("=")
        section, dot, name = path.partition(".")
        if not (equals and dot):
            raise ValueError(f"`--set` must be section.name=VALUE, got {override!r}; write e.g. training.lr=1e-4")
        settings = changed.setdefault(section, {})
        if isinstance(settings, dict):  # anything else is refused when the section is built
            settings[name] = _read_value(text, is_list=(section, name) in LISTS)
    return changed


def _read_value(text: str, *, is_list: bool) -> object:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text.split(",") if is_list else text
