"""What calls take."""

import os
import time

import pytest
import torch

from benchmarks import machine


def test_call_is_timed():
    assert machine.time_call(lambda: time.sleep(0.05)) == pytest.approx(0.05, abs=0.04)


@pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="only Linux counts anew")
def test_memory_is_what_the_call_held_at_most():
    size = 2**27
    held = machine.measure_memory(lambda: torch.ones(size // 4).sum())
    assert held == pytest.approx(size, rel=0.05)
    assert machine.measure_memory(lambda: None) < size / 100


def test_ceiling_is_two_operations_a_product(monkeypatch):
    monkeypatch.setattr(machine, "CEILING_SIDE", 64)
    monkeypatch.setattr(machine, "time_call", lambda call: 0.5)
    assert machine.measure_ceiling(torch.float32) == 2 * 64**3 / 0.5
