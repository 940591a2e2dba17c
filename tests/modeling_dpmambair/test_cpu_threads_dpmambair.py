"""Compiling the kernels: said once, kept on disk, and done without a disk."""

import os
import subprocess
import sys

import pytest

from tests.test_house import ROOT

pytestmark = pytest.mark.slow  # a new process compiles the kernels anew

SCAN = """
import torch
from modeling_dpmambair import scan_backend, selective_scan
with scan_backend("numba"):
    selective_scan(*(torch.rand(size) for size in [(1, 4, 2), (1, 4, 2), (2, 3), (1, 4, 3), (1, 4, 3), (2,)]))
"""
WITHOUT_DISK = """
from numba.core import caching
def refuse(self):
    raise OSError("read-only")
caching._CacheLocator.ensure_cache_path = refuse
"""


def scan_in_a_new_process(cache, code):
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(cache)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_first_call_says_what_it_compiles_and_the_next_process_finds_it_compiled(tmp_path):
    assert "compiling scan_forward for this processor, once: 00:0" in scan_in_a_new_process(tmp_path, SCAN)
    assert scan_in_a_new_process(tmp_path, SCAN) == ""


def test_kernels_compile_at_each_start_where_nothing_can_be_written(tmp_path):
    for _ in range(2):
        assert "compiling scan_forward" in scan_in_a_new_process(tmp_path, WITHOUT_DISK + SCAN)
    assert not list(tmp_path.iterdir())
