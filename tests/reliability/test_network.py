"""No command speaks to another machine: the system's own trace of all connections, without `HF_HUB_OFFLINE`."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

from tests.reliability.commands import ROOT, environment, make_works

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace, which sees native code's connections"),
]

DEADLINE = 900
# An address of the internet that is not this machine's own; or its resolver, wherever that is.
ADDRESS = re.compile(
    r"sin6?_port=htons\((?P<port>\d+)\).*?(?:inet_addr\(|inet_pton\(AF_INET6, )\"(?P<address>[^\"]+)\"", re.DOTALL
)
# Programs of a user's own.
PIPELINE = """
from transformers import pipeline
import modeling_dpmambair
pipeline("image-restoration", model={model!r}, device="cpu")({picture!r})
"""
SPANDREL = """
import spandrel
import dpmambair.spandrel
dpmambair.spandrel.register()
spandrel.ModelLoader("cpu").load_from_file({weights!r})
"""
SMALLER = (
    *("checking of data", "training plan", "averaging", "torch export", "ONNX in 8 bits", "preview of data"),
    *("publishing, dry run", "pipeline", "spandrel", "help"),
)
TRACED = "trace=connect,sendto,sendmsg,sendmmsg"


def trace(command, place, log):
    """Start a command under a trace of what it connects to, as on a machine that is not told to stay offline."""
    given = environment(place) | {"HF_HUB_OFFLINE": "0"}
    traced = ["strace", "-f", "--seccomp-bpf", "-e", TRACED, "-o", str(log), *command]
    return subprocess.Popen(traced, cwd=ROOT, env=given, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def contacts(log):
    """Return whom a traced command spoke to, but itself."""
    found = {(match["address"], match["port"]) for match in ADDRESS.finditer(log.read_text(errors="replace"))}
    return sorted(
        f"{address}:{port}"
        for address, port in found
        if port == "53" or not (address.startswith("127.") or address in ("::1", "0.0.0.0", "::"))
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("place")


@pytest.fixture(scope="module")
def works(place):
    return make_works(place)


def test_the_trace_sees_a_look_up(place, tmp_path):
    command = [sys.executable, "-c", "import socket; socket.create_connection(('192.0.2.1', 9), 0.1)"]
    trace(command, place, tmp_path / "log").communicate(timeout=DEADLINE)
    assert contacts(tmp_path / "log") == ["192.0.2.1:9"]


def others(place):
    """Return the commands beside the five great ones."""
    model, data = str(place / "model"), str(place / "in")
    return {
        "checking of data": ["-m", "dataset_scripts", "verify", "noise_sigma25", data],
        "training plan": ["train_accelerate.py", "--config", str(place / "training/restorer.json"), "--plan"],
        "averaging": ["-m", "training.average", model, model, "-o", str(place / "mean")],
        "torch export": ["export_model.py", f"{place}/light", "--format", "torch-export", "-o", f"{place}/a.pt2"],
        "ONNX in 8 bits": ["export_model.py", f"{place}/light", "--int8", "weights", "-o", str(place / "b.onnx")],
        "preview of data": ["-m", "dataset_scripts", "preview", "noise_sigma25", data, "-o", str(place / "a.png")],
        "publishing, dry run": ["publish_hub.py", "dataset", "noise_sigma25", data, "a/b", "--dry-run"],
        "pipeline": ["-c", PIPELINE.format(model=model, picture=str(place / "in/0/00.png"))],
        "spandrel": ["-c", SPANDREL.format(weights=f"{model}/model.safetensors")],
        "help": ["-m", "dpmambair.restore", "--help"],
    }


@pytest.mark.parametrize("name", ["training", "bulk restoring", "evaluation", "dataset building", "export"])
def test_great_commands_speak_to_nobody(works, place, tmp_path, record, name):
    (tmp_path / "out").mkdir()
    process = trace(works[name].command(tmp_path / "out"), place, tmp_path / "log")
    _, errors = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0, errors[-2000:]
    record("connections", name, 1, contacts(tmp_path / "log"))


@pytest.mark.parametrize("name", SMALLER)
def test_smaller_commands_speak_to_nobody(works, place, tmp_path, record, name):
    process = trace([sys.executable, *others(place)[name]], place, tmp_path / "log")
    _, errors = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0, errors[-2000:]
    record("connections", name, 1, contacts(tmp_path / "log"))


@pytest.mark.parametrize("name", ["service", "page"])
def test_servers_speak_to_nobody_but_their_visitors(works, place, tmp_path, record, monkeypatch, name):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for variable, value in {"DPMAMBAIR_MODEL": str(place / "model"), "GRADIO_SERVER_PORT": str(port)}.items():
        monkeypatch.setenv(variable, value)
    service = ["-m", "dpmambair.serve", "--model", str(place / "model"), "--port", str(port)]
    process = trace([sys.executable, *(service if name == "service" else ["demo/app.py"])], place, tmp_path / "log")
    try:
        _wait_for(port, process)
        if name == "service":
            content = (place / "in/0/00.png").read_bytes()
            urllib.request.urlopen(f"http://127.0.0.1:{port}/restore", content, timeout=DEADLINE).read()
        else:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=DEADLINE).read()
            time.sleep(5)  # what it sends, it sends in a thread
    finally:
        os.kill(_traced(process.pid), signal.SIGTERM)
        process.communicate(timeout=DEADLINE)
    record("connections", name, 1, contacts(tmp_path / "log"))


def _wait_for(port, process):
    deadline = time.monotonic() + DEADLINE
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as visitor:
            if visitor.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise AssertionError("no server came up")


def _traced(pid):
    """Return the process that strace started."""
    return int(subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True).stdout.split()[0])
