"""What results files say of the machine."""

import os

import torch

from dpmambair import machine


def test_machine_is_named_with_its_threads_and_torch():
    described = machine.describe_machine()
    assert described["cpu"]
    assert (described["cores"], described["threads"]) == (os.cpu_count(), torch.get_num_threads())
    assert described["torch"] == torch.__version__
