"""The house rules that a machine can check: import order, remote code, types, documentation, texts and data.

Each test looks at every file that its rule is about and lists all offenders at once.
"""

import ast
import importlib
import inspect
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest
from transformers.dynamic_module_utils import check_imports, get_imports

from tests.sources import ROOT, list_sources

PACKAGES = ("modeling_dpmambair", "dataset_scripts", "restoration_metrics")
# What everything above shares, and the command line; of ours it knows the model alone.
SHARED = "dpmambair"
UPPER_PACKAGES = ("evaluation", "training")
SCRIPTS = ("train_accelerate", "evaluate_accelerate", "publish_hub", "reproduce", "export_model")
FOLDERS = ("benchmarks", "demo", "examples")
# What `demo/app.py` finds beside itself, in the repository as in a Space.
PAGE = "restoration_page"
# Of the demonstration, what stays in the repository.
CHECKOUT_ONLY = {"build_static.py"}
OURS = {"app", "build_static", *PACKAGES, SHARED, *UPPER_PACKAGES, *SCRIPTS, *FOLDERS, PAGE, "tests"}

# Rows from bottom to top: a file imports from the rows below its own, never from its row or above.
LAYERS = {
    "modeling_dpmambair": (
        {
            *("configuration_dpmambair", "cpu_simd_dpmambair", "cpu_threads_dpmambair", "large_plan_dpmambair"),
            *("operators_dpmambair", "triton_scan_kernels_dpmambair", "hub_kernel_dpmambair"),
            *("picture_colours_dpmambair", "picture_errors_dpmambair", "picture_metadata_dpmambair"),
            *("weights_dpmambair", "extractor_statistics_dpmambair"),
        },
        {"picture_dpmambair", "picture_tiff_dpmambair"},
        {"picture_encoding_dpmambair", "picture_levels_dpmambair"},
        {"picture_files_dpmambair"},
        {"cpu_scan_kernels_dpmambair", "cpu_row_kernels_dpmambair"},
        {"cpu_scan_backward_kernels_dpmambair"},
        {"cpu_scan_dpmambair", "selective_scan_export_dpmambair", "cpu_rows_dpmambair", "triton_scan_dpmambair"},
        {"selective_scan_dpmambair"},
        {"layers_dpmambair"},
        {"block_dpmambair"},
        {"modeling_degradation_extractor"},
        {"modeling_dpmambair"},
        {"image_processing_dpmambair", "large_strips_dpmambair"},
        {"large_squares_dpmambair", "steering_dpmambair"},
        {"large_pictures_dpmambair"},
        {"large_export_dpmambair", "restorer_dpmambair"},
        {"pipeline_dpmambair"},
        {"__init__"},
    ),
    "dataset_scripts": (
        {"catalog", "weather", "transforms", "unseen"},
        {"pairing"},
        {"degradations", "decoding"},
        {"degradation_recipes"},
        {"degraded_patches", "paired_restoration", "synthetic_restoration"},
        {"mixture", "publishing", "task_mixtures"},
        {"__init__"},
        {"__main__"},
    ),
    "restoration_metrics": (
        {"figures", "functional", "lpips", "psnr", "ssim"},
        {"perceptual"},
        {"scores"},
        {"model_index"},
        {"__init__"},
    ),
    "training": (
        {"average", "checkpoints", "journal", "progress", "recipe_files", "rules", "scenes", "scores", "whiten"},
        {"recipe"},
        {"optimization", "pictures", "stages"},
        {"assemble", "plan", "validation"},
        {"loop"},
        {"__init__"},
    ),
    "evaluation": (
        {"classical", "journal", "pair_sets", "peers", "report"},
        {"methods", "summary"},
        {"measuring"},
        {"__init__"},
    ),
    "dpmambair": (
        {"files", "http_limits", "machine", "memory", "overlap", "shard", "shipped"},
        {"console"},
        {"settings"},
        {"manifest", "overview", "pictures", "search"},
        {"jobs", "request"},
        {"rows", "tars"},
        {"batch"},
        {"work"},
        {"restore", "spandrel", "video"},
        {"__init__"},
        {"serve"},
    ),
}

# What a Hub file may need of its user without asking: transformers' own requirements, and what its processors need.
HUB_REQUIREMENTS = {"torch", "torchvision", "transformers", "numpy", "PIL", "huggingface_hub", "safetensors"}

# Import names that differ from the distribution's; llvmlite is numba's own compiler, tied to its version.
DISTRIBUTIONS = {
    "PIL": "pillow",
    "cv2": "opencv-python-headless",
    "llvmlite": "numba",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}
# Of a package, a script or a single file.
EXTRAS = {
    "modeling_dpmambair": {"cuda", "heic", "kernels"},
    "train_accelerate": {"train"},
    "evaluate_accelerate": {"eval"},
    "evaluation": {"eval", "classical"},
    "evaluation/peers.py": {"spandrel", "dev"},
    "dataset_scripts": {"train"},
    "restoration_metrics": {"eval"},
    "export_model": {"export"},
    "dpmambair/http_limits.py": {"serve"},
    "dpmambair/serve.py": {"serve"},
    "dpmambair/spandrel.py": {"spandrel"},
    "dpmambair/video.py": {"video"},
    "demo": {"demo"},
    "examples": {"train"},
    "training": {"train"},
}
EVERY_EXTRA = {
    *("bulk", "cuda", "heic", "kernels", "train", "eval", "classical", "demo", "export", "serve", "spandrel", "video"),
    "dev",
}

MAX_POSITIONAL_ARGUMENTS = 6

Function = ast.FunctionDef | ast.AsyncFunctionDef


def read(path: Path) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


@cache
def parse(path: Path) -> ast.Module:
    return ast.parse(read(path))


def top_name(path: Path) -> str:
    """The package or script that a file belongs to."""
    return path.parts[0].removesuffix(".py")


def assert_none(offenders: Iterable[object]) -> None:
    """Check that there are no offenders; they say where they are and what must change."""
    if listed := [str(offender) for offender in offenders]:
        pytest.fail("\n".join(listed), pytrace=False)


PYTHON = list_sources("*.py")
SOURCES = tuple(path for path in PYTHON if path.parts[0] != "tests")
HUB_FILES = tuple(path for path in SOURCES if path.parts[0] == "modeling_dpmambair")
LAYERED = tuple(path for path in SOURCES if path.parts[0] in LAYERS)


# Imports


def imported_modules(path: Path, *, relative: bool = True) -> Iterator[str]:
    """Dotted names that a file imports; relative imports, unless left out, become absolute."""
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (relative or not node.level):
            package = path.parts[: len(path.parts) - node.level] if node.level else ()
            module = ".".join((*package, *([node.module] if node.module else [])))
            yield from (module, *(f"{module}.{alias.name}" for alias in node.names))


def allowed_imports(path: Path) -> set[str]:
    """What a file may import of ours."""
    top = top_name(path)
    if top in PACKAGES:
        return {top}
    if top == "demo":
        return {"modeling_dpmambair", top, PAGE} | ({SHARED} if path.name in CHECKOUT_ONLY else set())
    if top == SHARED:
        return {"modeling_dpmambair", top}
    if top in UPPER_PACKAGES:
        return {*PACKAGES, SHARED, top}
    return {*PACKAGES, SHARED, *UPPER_PACKAGES} | ({top} if top == "benchmarks" else set())


def test_packages_and_scripts_import_only_what_lies_below() -> None:
    def forbidden(path: Path) -> set[str]:
        return {module.split(".")[0] for module in imported_modules(path)} & OURS - allowed_imports(path)

    assert_none(f"{path} must not import {forbidden(path)}" for path in SOURCES if forbidden(path))


def test_files_of_a_package_import_only_from_lower_rows() -> None:
    def find_offenders() -> Iterator[str]:
        for path in LAYERED:
            rows = {stem: row for row, stems in enumerate(LAYERS[path.parts[0]]) for stem in stems}
            if path.stem not in rows:
                yield f"{path} has no place in the import order; give it a row of LAYERS in {Path(__file__).name}"
                continue
            modules = (module.split(".") for module in imported_modules(path))
            siblings = {parts[1] for parts in modules if parts[0] == path.parts[0] and len(parts) > 1} & set(rows)
            if above := {sibling for sibling in siblings if rows[sibling] >= rows[path.stem]}:
                yield f"{path} must not import {above}: it stands in a row above, or in the same"

    assert_none(find_offenders())


@cache
def requirements(extras: frozenset[str]) -> set[str]:
    """Normalised names of the distributions that the project and those of its extras require."""
    project = tomllib.loads(read(Path("pyproject.toml")))["project"]
    lines = [*project["dependencies"], *(line for extra in extras for line in project["optional-dependencies"][extra])]
    return {re.match(r"[\w.-]+", line)[0].replace("_", "-").lower() for line in lines}


def undeclared_imports(path: Path) -> set[str]:
    """What a file imports and the project, with the extras of the file's package, does not bring."""
    top = top_name(path)
    extras = EXTRAS.get(path.as_posix(), EXTRAS.get(top, set()))
    declared = requirements(frozenset(EVERY_EXTRA if top in {"tests", "benchmarks"} else extras))
    roots = {module.split(".")[0] for module in imported_modules(path)} - sys.stdlib_module_names - OURS - {""}
    return {root for root in roots if DISTRIBUTIONS.get(root, root).replace("_", "-").lower() not in declared}


def test_every_third_party_import_is_a_declared_dependency() -> None:
    undeclared = {path: undeclared_imports(path) for path in PYTHON}
    assert_none(
        f"{path} imports {names}, which its extras do not bring" for path, names in undeclared.items() if names
    )


# Remote code: transformers copies single files to machines where our packages are not installed


def test_hub_files_pass_the_check_that_transformers_makes() -> None:
    siblings = {sibling.stem for sibling in HUB_FILES}
    strangers = {path: set(check_imports(ROOT / path)) - siblings for path in HUB_FILES}
    assert_none(f"{path} imports {names}" for path, names in strangers.items() if names)


def test_hub_files_require_only_what_their_user_has() -> None:
    missing = {path: set(get_imports(ROOT / path)) - sys.stdlib_module_names - HUB_REQUIREMENTS for path in HUB_FILES}
    remedy = "into try/except ImportError at module level"
    assert_none(f"{path}: put {names} {remedy}" for path, names in missing.items() if names)


def test_hub_files_import_siblings_with_a_single_dot() -> None:
    def find_offenders() -> Iterator[str]:
        for path in HUB_FILES:
            relative = (node for node in ast.walk(parse(path)) if isinstance(node, ast.ImportFrom) and node.level)
            for node in relative:
                if node.level != 1 or not node.module or "." in node.module:
                    yield f"{path}:{node.lineno} must name a file of its own folder: `from .sibling import X`"
            if absolute := {module.split(".")[0] for module in imported_modules(path, relative=False)} & OURS:
                yield f"{path} must import {absolute} with a dot"

    assert_none(find_offenders())


def test_hub_files_have_no_text_that_reads_like_a_relative_import() -> None:
    def find_offenders() -> Iterator[str]:
        for path in HUB_FILES:
            relative = {n.lineno for n in ast.walk(parse(path)) if isinstance(n, ast.ImportFrom) and n.level}
            for number, line in enumerate(read(path).splitlines(), 1):
                if re.match(r"\s*(from|import)\s+\.", line) and number not in relative:
                    yield f"{path}:{number}: transformers would take the text for an import"

    assert_none(find_offenders())


# Arguments


def functions(tree: ast.AST) -> Iterator[Function]:
    return (node for node in ast.walk(tree) if isinstance(node, Function))


def all_functions() -> Iterator[tuple[str, Function]]:
    """Every function of the sources, and where it is."""
    return ((f"{path}:{node.lineno} `{node.name}`", node) for path in SOURCES for node in functions(parse(path)))


def count_positional_arguments(function: Function) -> int:
    arguments = [arg.arg for arg in (*function.args.posonlyargs, *function.args.args)]
    return len(arguments) - (arguments[:1] in (["self"], ["cls"], ["ctx"]))


def has_decorator(function: Function, *decorators: str) -> bool:
    """Whether one of the decorators, named without their module, is on the function."""
    found = (ast.unparse(node.func if isinstance(node, ast.Call) else node) for node in function.decorator_list)
    return any(decorator.split(".")[-1] in decorators for decorator in found)


def is_typed_elsewhere(function: Function) -> bool:
    """Whether numba or Triton infers the types, or an operator's schema gives them."""
    return has_decorator(function, "njit", "jit", "kernel", "overload", "register_fake")


def takes_flat_arguments(function: Function) -> bool:
    """Whether the function is a kernel or an operator: these take arrays and scalars, not objects that group them."""
    return has_decorator(function, "njit", "jit", "kernel", "intrinsic", "overload", "custom_op", "register_fake")


def is_command(function: Function) -> bool:
    """Whether typer calls the function: its arguments are the options of a command line."""
    return has_decorator(function, "command")


def test_functions_take_few_positional_arguments() -> None:
    bound = {
        place: count_positional_arguments(function)
        for place, function in all_functions()
        if not takes_flat_arguments(function) and not is_command(function)
    }
    many = {place: count for place, count in bound.items() if count > MAX_POSITIONAL_ARGUMENTS}
    assert_none(f"{place} takes {n} arguments; group them or make them keyword-only" for place, n in many.items())


# Types and documentation


def is_public(identifier: str) -> bool:
    return not identifier.startswith("_")


def public_definitions(body: list[ast.stmt], prefix: str = "") -> Iterator[tuple[str, Function | ast.ClassDef]]:
    """Public functions and classes, and the public members of public classes."""
    for node in body:
        if isinstance(node, Function | ast.ClassDef) and is_public(node.name):
            yield prefix + node.name, node
            if isinstance(node, ast.ClassDef):
                yield from public_definitions(node.body, f"{prefix}{node.name}.")


def test_every_public_name_is_documented() -> None:
    def find_offenders() -> Iterator[str]:
        for path in SOURCES:
            if not ast.get_docstring(parse(path)):
                yield f"{path} must begin with a docstring"
            bare = (label for label, node in public_definitions(parse(path).body) if not ast.get_docstring(node))
            yield from (f"{path}: document {label}" for label in bare)

    assert_none(find_offenders())


def test_every_function_is_typed() -> None:
    def find_offenders() -> Iterator[str]:
        for place, function in all_functions():
            if is_typed_elsewhere(function):
                continue
            args = function.args
            parameters = [*args.posonlyargs, *args.args, *args.kwonlyargs, *filter(None, (args.vararg, args.kwarg))]
            if untyped := [p.arg for p in parameters if p.annotation is None and p.arg not in {"self", "cls", "ctx"}]:
                yield f"{place}: give {untyped} types"
            if function.returns is None and function.name != "__init__":
                yield f"{place}: give the result a type"

    assert_none(find_offenders())


def config_classes() -> list[type]:
    """Classes of the configuration file."""
    module = importlib.import_module("modeling_dpmambair.configuration_dpmambair")
    return [value for value in vars(module).values() if getattr(value, "__module__", None) == module.__name__]


def documented_fields(docstring: str) -> dict[str, str]:
    """Text of each entry of a docstring's `Args` or `Attributes`, by name."""
    section = re.search(r"^(?:Args|Attributes):\n((?:(?: .*)?\n?)*)", docstring, re.MULTILINE)
    entry = re.compile(r"^    (\w+)(?: \(.*\))?:(.*(?:\n(?:     .*)?$)*)", re.MULTILINE)
    return {found[1]: found[0] for found in entry.finditer(section[1] if section else "")}


def states_default(text: str, default: object) -> bool:
    """Whether a text says `default VALUE` or `defaults to VALUE`, VALUE bare or in back quotes."""
    values = {repr(default), str(default), f'"{default}"'}
    if isinstance(default, list | tuple):
        values |= {str(list(default)), str(tuple(default)), json.dumps(list(default))}
    alternatives = "|".join(map(re.escape, values))
    return re.search(rf"\b[Dd]efaults?(?: to|:)? `*(?:{alternatives})(?![.]?\w)", " ".join(text.split())) is not None


@pytest.mark.parametrize("config", [cls for cls in config_classes() if isinstance(cls, type)])
def test_config_docstring_lists_every_field_with_its_default(config: type) -> None:
    fields = [field for field in config.__annotations__ if not str(config.__annotations__[field]).count("ClassVar")]
    documented = documented_fields(inspect.getdoc(config) or "")
    assert set(fields) == set(documented), f"{config.__name__} and its docstring list different fields"
    wrong = [field for field in fields if not states_default(documented[field], getattr(config, field))]
    assert not wrong, f"{config.__name__}: the docstring's defaults of {wrong} differ from the class's"


# Texts and data

MACHINE_PATH = re.compile(r"(?<![\w.~)}\]])/(?:work|root|tmp|home|opt)/")
REGISTRY_HOST = re.compile(r"pypi\.org|pythonhosted\.org|npmjs\.org|debian\.org|download\.pytorch\.org|anaconda\.org")


def text_lines() -> Iterator[tuple[str, str]]:
    """Every line of every text file of the repository, and where it is."""
    for path in list_sources("*"):
        content = (ROOT / path).read_bytes()
        if b"\0" not in content:
            yield from ((f"{path}:{n}", line) for n, line in enumerate(content.decode("utf-8").splitlines(), 1))


def test_no_file_names_a_machine_path_or_a_registry_host() -> None:
    def find_offenders() -> Iterator[str]:
        for place, line in text_lines():
            if MACHINE_PATH.search(line):
                yield f"{place} names a path of one machine"
            if REGISTRY_HOST.search(line):
                yield f"{place} names a registry's host"

    assert_none(find_offenders())


def test_json_files_parse_without_repeated_keys() -> None:
    repeated = []

    def note_repetition(pairs: list[tuple[str, object]]) -> dict[str, object]:
        keys = [key for key, _ in pairs]
        repeated.extend(key for key in dict.fromkeys(keys) if keys.count(key) > 1)
        return dict(pairs)

    def find_offenders() -> Iterator[str]:
        for path in list_sources("*.json"):
            repeated.clear()
            try:
                json.loads(read(path), object_pairs_hook=note_repetition)
            except ValueError as error:
                yield f"{path}: {error}"
            if repeated:
                yield f"{path} repeats {repeated}"

    assert_none(find_offenders())


@pytest.mark.parametrize("arguments", [("check",), ("format", "--check")], ids=" ".join)
def test_ruff_has_nothing_to_say(arguments: tuple[str, ...]) -> None:
    ruff = subprocess.run([sys.executable, "-m", "ruff", *arguments, "."], cwd=ROOT, capture_output=True, text=True)
    assert ruff.returncode == 0, ruff.stdout + ruff.stderr
