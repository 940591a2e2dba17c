"""What the tests of publishing share: a committed copy of this checkout, and processes that talk to the stand-in."""

import os
import shutil
import subprocess
import sys

from tests.sources import ROOT, list_sources

GIT = ("git", "-c", "user.name=Tester", "-c", "user.email=tester@example.org", "-c", "commit.gpgsign=false")
# Files of the code that no published folder carries, since no class that is loaded needs them.
STAYING = {"__init__.py", "large_export_dpmambair.py"}


def git(folder, *arguments):
    """Run git in a folder."""
    subprocess.run([*GIT, *arguments], cwd=folder, check=True, capture_output=True)


def commit_all(folder):
    """Commit everything in a folder, which becomes a repository if it is none."""
    if not (folder / ".git").exists():
        git(folder, "init", "--quiet")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "A state")


def copy_checkout(folder):
    """Copy this checkout as it stands on disk, committed, with the kernels' caches; return the copy's folder."""
    caches = [path.relative_to(ROOT) for path in (ROOT / "modeling_dpmambair").rglob("*.nb[ic]")]
    for name in {*list_sources(), *caches}:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)  # with its time, which the caches go by
    commit_all(folder)
    return folder


def run_python(arguments, folder, environment):
    """Run Python in a folder, with nothing of this process's settings for it or for the Hub."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "HF_", "DPMAMBAIR"))}
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=folder, env=clean | environment, capture_output=True, text=True, timeout=900)
