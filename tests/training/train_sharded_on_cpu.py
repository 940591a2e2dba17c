"""Run `train_accelerate.py` with its weights sharded on the CPU, where Accelerate otherwise ignores that wish.

Without numba, whose kernels see a weight's memory as a NumPy array: torch then refuses to free it after use.
"""

import os
import sys

import typer
from accelerate.state import PartialState
from accelerate.utils import DistributedType

start = PartialState.__init__


def start_as_if_on_gpus(self: PartialState, *arguments: object, **settings: object) -> None:
    is_new = not self.initialized
    start(self, *arguments, **settings)
    if is_new:
        self.distributed_type = DistributedType.MULTI_GPU


if __name__ == "__main__":
    os.environ["ACCELERATE_USE_CPU"] = "true"
    sys.modules["numba"] = None
    PartialState.__init__ = start_as_if_on_gpus
    from train_accelerate import main

    typer.run(main)
