"""Settings of the whole test run: no network, caches of its own, one seed."""

import os
import tempfile

import pytest

# Before the first import of a Hugging Face library: they read these once. Subprocesses of the tests inherit them.
_CACHES = tempfile.TemporaryDirectory(prefix="dpmambair-tests-")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HOME"] = _CACHES.name
# Test processes side by side share the cores: as many threads in each as there are cores would wait for one another.
if "PYTEST_XDIST_WORKER_COUNT" in os.environ:
    os.environ["OMP_NUM_THREADS"] = str(max(1, os.cpu_count() // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])))

import torch  # noqa: E402


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    """Seed torch's global generator; NumPy code is handed its generators."""
    torch.manual_seed(0)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip the tests marked `gpu` where there is no CUDA device."""
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")


def pytest_unconfigure() -> None:
    """Remove the run's caches."""
    _CACHES.cleanup()
