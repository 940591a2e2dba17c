"""What the tests of the documents share: reading code blocks, and checking commands without running them."""

import json
import re
import shlex
import subprocess
import sys
import tomllib
from functools import cache
from importlib import import_module
from pathlib import Path

import typer
from accelerate.commands.launch import launch_command_parser
from PIL import Image
from torch.distributed.run import get_args_parser
from typer.main import get_command

from benchmarks.files import RESULTS
from dpmambair.shipped import SHIPPED
from training.recipe import Recipe

ROOT = Path(__file__).resolve().parents[1]
# How lines that are commands begin, among trees of folders and names of files.
PROGRAMS = ("make ", "pip install ", "python -m ", "python ", "accelerate launch ", "torchrun ", "dpmambair-")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def read(name):
    """Return a document's text, by its path from the root."""
    return (ROOT / name).read_text(encoding="utf-8")


def code_blocks(name, language):
    """Return a document's code blocks of one language."""
    # All blocks are matched, so that the end of one is never taken for the beginning of the next.
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", read(name), re.MULTILINE | re.DOTALL)
    return [content for found, content in blocks if found == language]


def shell_commands(name):
    """Return a document's commands as they stand, comments and continued lines resolved."""
    lines = (line for block in code_blocks(name, "bash") for line in block.replace("\\\n", " ").splitlines())
    return [shlex.join(words) for line in lines if (words := shlex.split(line, comments=True))]


def all_commands(name):
    """Return the commands of a document's blocks, of bash or of no language, and those inside its sentences."""
    blocks = code_blocks(name, "bash") + code_blocks(name, "")
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    prose = re.sub(r"^```.*?^```$", "", read(name), flags=re.MULTILINE | re.DOTALL)
    names = {SHIPPED.name, *measured_models(), *PROJECT["scripts"]}  # each begins as a command does
    lines += [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose) if code not in names]
    return [shlex.join(shlex.split(line, comments=True)) for line in lines if line.startswith(PROGRAMS)]


def measured_models():
    """Return the names of the models that results files tell of; some came before the shipped one."""
    contents = [json.loads(path.read_text(encoding="utf-8")) for path in RESULTS.glob("*.json")]
    models = [content["model"] for content in contents if isinstance(content, dict) and "model" in content]
    return {model["name"] if isinstance(model, dict) else model for model in models}


def load_command(name):
    """Import a program of ours by its module, and return what parses its command line."""
    module = import_module(name)
    entry = module.app if hasattr(module, "app") else module.main
    if isinstance(entry, typer.Typer):
        return get_command(entry)
    app = typer.Typer()
    app.command()(entry)
    return get_command(app)


def check_ours(module, words):
    """Parse a command line of ours, without touching its files; return the options by name."""
    command = load_command(module)
    while hasattr(command, "commands"):
        assert words[0] in command.commands, f"{module} has no subcommand {words[0]!r}"
        command, words = command.commands[words[0]], words[1:]
    given, _, _ = command.make_parser(command.context_class(command)).parse_args(list(words))
    missing = [parameter.name for parameter in command.params if parameter.required and not given.get(parameter.name)]
    assert not missing, f"{module} needs {missing}"
    if module == "train_accelerate":
        Recipe.from_file(ROOT / given["config"], given.get("overrides", []))
    return given


def check_make(words):
    """Let make plan the targets."""
    subprocess.run(["make", "--dry-run", *words], cwd=ROOT, check=True, capture_output=True)


@cache
def pip_help(command):
    """What pip says of one of its commands."""
    words = [sys.executable, "-m", "pip", command, "--help"]
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


def check_pip(words):
    """Check that pip knows the options and the project the extras."""
    usage = pip_help(words[0])
    for word in words[1:]:
        if word.startswith("-"):
            assert re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", usage), f"pip has no option {word}"
            continue
        requirement = re.fullmatch(r"\.(?:\[(.*)\])?", word)
        assert requirement, f"{word} is not this project"
        extras = filter(None, (requirement[1] or "").split(","))
        assert set(extras) <= set(PROJECT["optional-dependencies"]), f"{word} names an unknown extra"


def check_python(words):
    """Check a program given as a script or as a module."""
    if words[0] == "-m" and words[1].split(".")[0] in sys.stdlib_module_names:
        import_module(words[1])
    elif words[0] == "-m":
        package = (ROOT / words[1]).is_dir()
        check_ours(f"{words[1]}.__main__" if package else words[1], words[2:])
    else:
        assert (ROOT / words[0]).is_file(), f"there is no {words[0]}"
        if "/" in words[0]:
            assert len(words) == 1, f"{words[0]} is run without options"
        else:
            check_ours(words[0].removesuffix(".py"), words[1:])


def check_accelerate(words):
    """Check Accelerate's own options, then the script that it launches."""
    assert words[0] == "launch"
    given = launch_command_parser().parse_args(words[1:])
    assert given.config_file is None or (ROOT / given.config_file).is_file(), f"there is no {given.config_file}"
    check_launched(given)


def check_launched(given):
    """Check the module or script that a launcher starts."""
    check_python([*(["-m"] if given.module else []), given.training_script, *given.training_script_args])


def check_torchrun(words):
    """Check the options of torch's own launcher, then what it launches."""
    check_launched(get_args_parser().parse_args(words))


def check_command(line):
    """Check that a command of a document exists and takes the options given.

    Files that the project ships must exist; DATA, PHOTOS and what commands write are the reader's.
    """
    program, *words = shlex.split(line)
    shipped = (word for word in words if re.match(r"(configuration|checkpoints|examples)/|.*\.(py|md)$", word))
    missing = [word for word in shipped if not (ROOT / word).exists()]
    assert not missing, f"the repository has no {missing}"
    checks = {"make": check_make, "pip": check_pip, "python": check_python}
    checks |= {"accelerate": check_accelerate, "torchrun": check_torchrun}
    if program in checks:
        checks[program](words)
    else:
        assert program in PROJECT["scripts"], f"{program} is no command of this project"
        check_ours(PROJECT["scripts"][program].partition(":")[0], words)


def run_python_block(name, folder, number=0, example="rain.png", output="restored.png"):
    """Run one of a document's Python blocks as it stands, in a folder that sees weights and examples.

    Args:
        name: the document's path from the root.
        folder: an empty one.
        number: of the block, from 0.
        example: file in `examples` that the block reads.
        output: file that it writes.

    Returns:
        The picture that it read, in RGB, and the one that it wrote.
    """
    weights = SHIPPED / "model.safetensors"
    assert weights.is_file(), f"{name} needs the shipped weights, {weights.relative_to(ROOT)}"
    for shipped in ("checkpoints", "examples", "modeling_dpmambair", "dpmambair"):
        (folder / shipped).symlink_to(ROOT / shipped)
    block = code_blocks(name, "python")[number]
    done = subprocess.run([sys.executable, "-c", block], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return Image.open(folder / "examples" / example).convert("RGB"), Image.open(folder / output)


def missing_links(name):
    """Return what a document links to or shows, a file or a heading in it, and what is not there."""
    missing = []
    for target, anchor in re.findall(r"\]\((?!https?://)([^)#]*)(?:#([^)]*))?\)", read(name)):
        path = ((ROOT / name).parent / target).resolve() if target else ROOT / name
        if not path.exists() or (anchor and anchor not in anchors(path)):
            missing.append(f"{target}#{anchor}" if anchor else target)
    return missing


def anchors(path):
    """Return the anchors that GitHub gives the headings of a Markdown file."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def missing_paths(name):
    """Return the files of this repository that a document names in code by their paths, and that are not there."""
    tops = "|".join(sorted(path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(".")))
    named = re.findall(rf"`((?:{tops})/[\w.*/-]+\.\w+)`", read(name))
    return [path for path in named if not any(ROOT.glob(path))]


def typed_measurements(name):
    """Return the measured numbers that stand in a document outside its rendered tables."""
    text = re.sub(r"<!-- table:.*?<!-- /table -->", "", read(name), flags=re.DOTALL)
    return re.findall(r"\b\d+(?:\.\d+)? ?(?:dB|GFLOPs?|G|M|ms|s|GiB)\b", text)
