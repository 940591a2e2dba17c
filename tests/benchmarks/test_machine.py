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
    monkeypatch.setitem(machine.CEILING_SIDES, "cpu", 64)
    monkeypatch.setattr(machine, "time_call", lambda call, device: 0.5)
    assert machine.measure_ceiling(torch.float32) == 2 * 64**3 / 0.5


@pytest.mark.gpu
def test_call_and_its_memory_are_measured_on_a_card():
    held = machine.measure_memory(lambda: torch.rand(2**26, device="cuda").sum(), "cuda")
    assert held == pytest.approx(2**28, rel=0.05)
    slow, fast = (machine.time_call(lambda cycles=n: torch.cuda._sleep(cycles), "cuda") for n in (2 * 10**8, 1))
    assert slow > 0.02 > fast
