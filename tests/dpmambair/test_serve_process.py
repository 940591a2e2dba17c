"""The command as strangers meet it: a process of its own under load and under attack."""

import http.client
import json
import re
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dpmambair.shipped import SHIPPED
from modeling_dpmambair import Restorer
from tests.dpmambair.hostile import crowded_tiff, encoded, giant_jpeg, hostile_bodies
from tests.restoring import ROOT

pytestmark = pytest.mark.slow

# Mebibytes by which the process may grow for a small picture, or for one of a megapixel.
SMALL, MEGAPIXEL = 400, 1200


class Server:
    """A running `dpmambair-serve`.

    Args:
        log: file that takes its log.
        options: of the command.
    """

    def __init__(self, log, *options):
        command = [sys.executable, "-m", "dpmambair.serve", "--port", "0", "--device", "cpu", *options]
        with log.open("w") as stream:
            self._process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=stream, text=True)
        self._log = log
        self.port = int(re.search(r"http://127\.0\.0\.1:(\d+)$", self._process.stdout.readline())[1])
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=600) as answer:
            self.health = json.load(answer)

    def post(self, address, body, kind="application/octet-stream"):
        """Post a body on a connection of its own, and return status, headers and content of the answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        try:
            connection.request("POST", address, body, {"Content-Type": kind.encode("latin-1")})
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()

    def peak(self):
        """Return the most memory that the process has held, in mebibytes."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(re.search(r"VmHWM:\s*(\d+) kB", status)[1]) / 1024

    def stop(self):
        """End the process, and return its log."""
        self._process.terminate()
        self._process.wait(timeout=60)
        self._process.stdout.close()
        return self._log.read_text()


@pytest.fixture
def serve(tmp_path):
    servers = []

    def start(*options):
        servers.append(Server(tmp_path / "log", *options))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.mark.ci
def test_fifty_posts_at_once_are_restored_or_told_to_come_again(serve):
    server = serve("--dtype", "float32")
    content = (ROOT / "examples" / "rain.png").read_bytes()
    expected = Restorer.from_pretrained(SHIPPED, "cpu", "float32")(ROOT / "examples" / "rain.png")
    before = server.peak()
    with ThreadPoolExecutor(50) as clients:
        first = list(clients.map(lambda _: server.post("/restore", content), range(50)))

    def insist(_):
        for _ in range(100):
            status, headers, answer = server.post("/restore", content)
            if status != 429:
                return status, answer
            time.sleep(int(headers["Retry-After"]))
        return 429, b""

    with ThreadPoolExecutor(50) as clients:
        later = list(clients.map(insist, range(50)))
    statuses = Counter(status for status, _, _ in first)
    assert set(statuses) == {200, 429}
    assert statuses[200] >= 16
    assert Counter(status for status, _ in later) == {200: 50}
    for _, answer in [(None, answer) for status, _, answer in first if status == 200] + later:
        np.testing.assert_allclose(np.asarray(Image.open(BytesIO(answer)), np.int16), expected, atol=1)
    assert server.peak() - before < SMALL
    assert server.health["model"] == SHIPPED.name


def test_two_hundred_hostile_bodies_are_answered_and_the_next_picture_is_restored(serve):
    server = serve()
    before = server.peak()
    bodies = list(hostile_bodies())
    assert len(bodies) >= 200
    with ThreadPoolExecutor(4) as clients:
        answers = list(clients.map(lambda body: server.post("/restore", body[2], body[1]), bodies))
    for (name, *_), (status, headers, content) in zip(bodies, answers, strict=True):
        assert status in (200, 413, 422), (name, status)
        if status != 200:
            assert headers["Content-Type"] == "application/json", name
            assert len(json.loads(content)["detail"].splitlines()) == 1, name
    assert server.post("/restore", encoded("PNG"))[0] == 200
    assert server.peak() - before < SMALL
    log = server.stop()
    assert "Traceback" not in log
    assert " 500 " not in log


def test_a_giant_takes_no_memory(serve):
    server = serve()
    before = server.peak()
    assert len(giant_jpeg()) < 1300
    for _ in range(20):
        assert server.post("/restore", giant_jpeg())[0] == 413
    assert server.peak() - before < 20


def test_bodies_that_wait_take_no_more_than_their_places(serve):
    server = serve("--places", "4", "--max-megabytes", "20")
    before = server.peak()
    with ThreadPoolExecutor(32) as clients:
        statuses = set(clients.map(lambda _: server.post("/restore", bytes(19_000_000))[0], range(64)))
    assert statuses <= {422, 429}
    assert server.peak() - before < 4 * 3 * 20


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits what a process has reserved")
def test_a_file_that_wants_all_memory_does_not_get_it_and_the_next_picture_is_restored(serve):
    server = serve("--memory", "0.5", "--places", "2", "--max-megabytes", "20", "--max-megapixels", "4")
    before = server.peak()
    for _ in range(3):
        # Restored, where the reader has left out the tags that did not fit.
        assert server.post("/restore", crowded_tiff())[0] in (200, 413)
        assert server.post("/restore", encoded("PNG"))[0] == 200
    # What a restoration, bodies, a picture and everything else may take.
    assert server.peak() - before < 512 + 3 * 2 * 20 + 4 * 100 + 1024
    assert "Traceback" not in server.stop()


def test_health_answers_while_a_picture_is_restored(serve):
    server = serve()
    content = BytesIO()
    Image.effect_noise((1000, 1000), 50).convert("RGB").save(content, "JPEG")
    before = server.peak()
    with ThreadPoolExecutor(1) as client:
        restoring = client.submit(server.post, "/restore", content.getvalue())
        times = []
        while not restoring.done():
            began = time.monotonic()
            with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/health", timeout=60):
                times.append(time.monotonic() - began)
            time.sleep(0.1)
        assert restoring.result()[0] == 200
    assert len(times) > 5
    assert sorted(times)[len(times) // 2] < 1
    assert server.peak() - before < MEGAPIXEL


def test_interrupting_ends_the_server(serve):
    server = serve()
    log = server.stop()
    assert "Traceback" not in log
