"""The files of the project, for tests that look at all of them."""

import subprocess
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# An unpacked source distribution is no repository; it brings a list of its own.
LISTING = ROOT / "dpmambair.egg-info" / "SOURCES.txt"


@cache
def list_sources(pattern: str = "*") -> tuple[Path, ...]:
    """Return the files that are committed or about to be, relative to the root and sorted.

    Args:
        pattern: of their paths, in which a star stands for slashes too.
    """
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    if (ROOT / ".git").exists():
        names = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    else:
        names = [name for name in LISTING.read_text(encoding="utf-8").splitlines() if ".egg-info/" not in name]
    return tuple(sorted(Path(name) for name in set(names) if fnmatch(name, pattern) and (ROOT / name).is_file()))
