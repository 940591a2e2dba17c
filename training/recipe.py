"""Training recipes: JSON in, typed and validated settings out; a misspelt key or a wrong value is an error."""

import json
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from dataset_scripts.degradations import KINDS


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
    return value[0][0] == 0 and all(a[0] < b[0] for a, b in pairwise(value)) and min(patch for _, patch in value) > 0


POSITIVE_INTEGER = Rule("a positive integer", lambda value: _is_integer(value) and value > 0)
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
SCHEDULE = Rule("a list of [step, patch size] with ascending steps from 0 and positive sizes", _is_schedule)
SPACING = Rule("an integer of at least 2", lambda value: _is_integer(value) and value >= 2)
SOME_KINDS = Rule(
    f"a list of different kinds out of {', '.join(KINDS)}",
    lambda value: isinstance(value, tuple) and bool(value) and len(set(value) & set(KINDS)) == len(value),
)


def _one_of(*choices: str) -> Rule:
    return Rule(" or ".join(map(repr, choices)), lambda value: value in choices)


def _setting(default: object, rule: Rule, *, resumable: bool = False, local: bool = False) -> Any:
    """Declare a field: its default, its rule, whether a resumed run may change it, whether it names a local file."""
    return field(default=default, metadata={"rule": rule, "resumable": resumable or local, "local": local})


@dataclass(frozen=True)
class ModelRecipe:
    """What is trained.

    Attributes:
        stage: "extractor" (pre-training with the reconstruction unit) or "restorer".
        config: JSON file of a `DPMambaIRConfig`; the extractor stage takes its `extractor_config`.
        extractor: folder of the trained extractor; needed by the restorer.
        lpips_backbone: safetensors file of the LPIPS backbone; null takes torch's hub cache. Extractor only.
        lpips_network: the backbone: "squeeze", "alex" or "vgg". Extractor only.
    """

    stage: str = _setting("restorer", _one_of("extractor", "restorer"))
    config: str = _setting("configuration/model/tiny.json", PATH)
    extractor: str | None = _setting(None, PATH_OR_NULL, local=True)
    lpips_backbone: str | None = _setting(None, PATH_OR_NULL, local=True)
    lpips_network: str = _setting("squeeze", _one_of("squeeze", "alex", "vgg"))


@dataclass(frozen=True)
class DataRecipe:
    """What it is trained on: clean photographs, degraded on the fly.

    Attributes:
        clean_dirs: folders of clean photographs.
        severity: range of the severities, drawn uniformly, in [0, 1].
        composite_probability: share of the patches that get several kinds at once.
        kinds: the degradations.
        held_out_every: every n-th picture is kept for validation.
        validation_pictures: how many of the kept pictures are looked at.
        validation_patch: side of the validated patches, pixels.
    """

    clean_dirs: tuple[str, ...] = _setting((), PATHS, local=True)
    severity: tuple[float, float] = _setting((0.05, 0.9), SEVERITY)
    composite_probability: float = _setting(0.15, PROBABILITY)
    kinds: tuple[str, ...] = _setting(KINDS, SOME_KINDS)
    held_out_every: int = _setting(20, SPACING)
    validation_pictures: int = _setting(4, POSITIVE_INTEGER, resumable=True)
    validation_patch: int = _setting(128, POSITIVE_INTEGER, resumable=True)


@dataclass(frozen=True)
class TrainingRecipe:
    """How it is trained. The defaults are the paper's for the restorer (arXiv:2504.17732) where it names them.

    Attributes:
        steps: optimiser steps.
        batch_size: patches per process and step.
        patch_schedule: pairs (step, side in pixels): from this step on patches have this side.
        lr: highest learning rate.
        final_lr: learning rate of the last step, after a cosine.
        warmup_steps: steps of linear warm-up.
        betas: AdamW's.
        weight_decay: AdamW's, on matrices and kernels only.
        max_grad_norm: gradients longer than this are shortened to it.
        mixed_precision: "bf16", "fp16" (not on a CPU) or "no".
        ema_decay: final decay per step of the averaged weights, which are the ones validated and saved.
        seed: of the weights, the order of the pictures and the degradations.
        workers: data processes per training process.
        log_every: steps between log records.
        checkpoint_every: steps between checkpoints.
        keep_checkpoints: how many of the newest checkpoints stay.
        validate_every: steps between validations.
    """

    steps: int = _setting(300_000, POSITIVE_INTEGER, resumable=True)
    batch_size: int = _setting(1, POSITIVE_INTEGER)
    patch_schedule: tuple[tuple[int, int], ...] = _setting(((0, 192),), SCHEDULE)
    lr: float = _setting(3e-4, POSITIVE)
    final_lr: float = _setting(1e-6, AT_LEAST_ZERO)
    warmup_steps: int = _setting(0, WHOLE_NUMBER)
    betas: tuple[float, float] = _setting((0.9, 0.999), BETAS)
    weight_decay: float = _setting(1e-4, AT_LEAST_ZERO)
    max_grad_norm: float = _setting(1.0, POSITIVE)
    mixed_precision: str = _setting("bf16", _one_of("bf16", "fp16", "no"))
    ema_decay: float = _setting(0.999, FRACTION)
    seed: int = _setting(0, WHOLE_NUMBER)
    workers: int = _setting(2, WHOLE_NUMBER, resumable=True)
    log_every: int = _setting(50, POSITIVE_INTEGER)
    checkpoint_every: int = _setting(1000, POSITIVE_INTEGER, resumable=True)
    keep_checkpoints: int = _setting(2, POSITIVE_INTEGER, resumable=True)
    validate_every: int = _setting(1000, POSITIVE_INTEGER, resumable=True)


@dataclass(frozen=True)
class Recipe:
    """One training run.

    Attributes:
        model: what is trained.
        data: what it is trained on.
        training: how it is trained.

    Raises:
        ValueError: a setting breaks its rule, or two contradict each other.
    """

    model: ModelRecipe
    data: DataRecipe
    training: TrainingRecipe

    def __post_init__(self) -> None:
        """Check every setting by its rule, then the pairs that depend on each other."""
        for section in fields(self):
            _check_section(section.name, getattr(self, section.name))
        training = self.training
        if training.final_lr > training.lr:
            raise ValueError(
                f"`training.final_lr` must be at most `training.lr` {training.lr}, got {training.final_lr}; lower it"
            )
        if training.warmup_steps >= training.steps:
            raise ValueError(
                f"`training.warmup_steps` must be below `training.steps` {training.steps}, "
                f"got {training.warmup_steps}; shorten the warm-up"
            )

    @classmethod
    def from_file(cls, path: Path, overrides: Sequence[str] = ()) -> "Recipe":
        """Read a recipe.

        Args:
            path: JSON file with the sections `model`, `data` and `training`; missing settings take their defaults.
            overrides: "section.name=VALUE" each; VALUE is JSON or plain text, a list of paths "A,B".

        Raises:
            ValueError: no JSON, an unknown key, a broken rule.
            FileNotFoundError: no such file.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(
                f"`config` must be an existing JSON recipe, got {str(path)!r}; see configuration/train"
            )
        try:
            content = json.loads(Path(path).read_text())
        except json.JSONDecodeError as error:
            raise ValueError(f"`config` must be JSON, got {str(path)!r} with {error}; correct it there") from error
        if not isinstance(content, dict):
            raise ValueError(
                f"`config` must be a JSON object, got {str(path)!r} with {type(content).__name__}; "
                "see configuration/train"
            )
        return cls.from_dict(_override(content, overrides))

    @classmethod
    def from_dict(cls, content: dict[str, dict[str, Any]]) -> "Recipe":
        """Build a recipe from nested dictionaries, as JSON gives them.

        Args:
            content: section name to setting name to value.

        Raises:
            ValueError: an unknown key, a broken rule.
        """
        sections = {section.name: section.type for section in fields(cls)}
        _refuse_unknown("", content, sections)
        return cls(**{name: _build_section(name, kind, content.get(name, {})) for name, kind in sections.items()})

    def to_dict(self, *, portable: bool = False) -> dict[str, dict[str, Any]]:
        """Give the recipe as nested dictionaries, ready for JSON.

        Args:
            portable: leave out the paths of this machine (photographs, extractor, backbone).
        """
        recipe = self.portable() if portable else self
        return asdict(recipe)

    def portable(self) -> "Recipe":
        """Copy the recipe without the paths of this machine."""
        cleared = {section.name: _clear_local(getattr(self, section.name)) for section in fields(self)}
        return replace(self, **cleared)

    def check_resumes(self, earlier: "Recipe") -> None:
        """Refuse to continue a run with other settings than it began with.

        The length, places of files, workers and reporting may change; a changed length stretches the cosine.

        Args:
            earlier: the recipe of the interrupted run.

        Raises:
            ValueError: a setting that shapes the weights differs.
        """
        for section in fields(self):
            now, before = getattr(self, section.name), getattr(earlier, section.name)
            for item in fields(now):
                got, expected = getattr(now, item.name), getattr(before, item.name)
                if got != expected and not item.metadata["resumable"]:
                    raise ValueError(
                        f"`{section.name}.{item.name}` must stay {expected!r} with --resume, got {got!r}; "
                        "restore it, or start a new run in another --output"
                    )


def _check_section(section: str, settings: Any) -> None:
    for item in fields(settings):
        value, rule = getattr(settings, item.name), item.metadata["rule"]
        if not rule.holds(value):
            name = f"{section}.{item.name}"
            raise ValueError(
                f"`{name}` must be {rule.text}, got {value!r}; correct the recipe or give --set {name}=VALUE"
            )


def _build_section(name: str, kind: Any, content: object) -> Any:
    if not isinstance(content, dict):
        raise ValueError(f"`{name}` must be an object of settings, got {content!r}; write {{...}} in the recipe")
    _refuse_unknown(f"{name}.", content, {item.name for item in fields(kind)})
    return kind(**{key: _freeze(value) for key, value in content.items()})


def _refuse_unknown(prefix: str, given: Any, known: Any) -> None:
    unknown = [key for key in given if key not in known]
    if unknown:
        raise ValueError(
            f"`{prefix}{unknown[0]}` must be one of the recipe's keys {', '.join(sorted(known))}, "
            f"got {unknown[0]!r}; correct its spelling"
        )


def _freeze(value: object) -> object:
    return tuple(map(_freeze, value)) if isinstance(value, list) else value


def _clear_local(settings: Any) -> Any:
    return replace(settings, **{item.name: item.default for item in fields(settings) if item.metadata["local"]})


def _override(content: dict[str, dict[str, Any]], overrides: Sequence[str]) -> dict[str, dict[str, Any]]:
    changed = deepcopy(content)
    for override in overrides:
        path, equals, text = override.partition("=")
        section, dot, name = path.partition(".")
        if not (equals and dot):
            raise ValueError(f"`--set` must be section.name=VALUE, got {override!r}; write e.g. training.lr=1e-4")
        settings = changed.setdefault(section, {})
        if isinstance(settings, dict):  # anything else is refused when the section is built
            settings[name] = _read_value(text, is_list=(section, name) == ("data", "clean_dirs"))
    return changed


def _read_value(text: str, *, is_list: bool) -> object:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text.split(",") if is_list else text
