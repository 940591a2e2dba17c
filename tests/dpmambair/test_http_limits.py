"""What bounds a service: every limit is reached, and the service goes on."""

import asyncio
import gc
import http.client
import json
import logging
import socket
import threading
import time
import weakref
from contextlib import contextmanager

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from dpmambair.http_limits import PIECE, Desk, Guard, Limits, PatientProtocol, read_body

SCOPE = {"type": "http", "method": "POST", "path": "/", "query_string": b"", "headers": [], "client": ("10.0.0.1", 9)}
SOON = 0.05


def make_app(job=lambda content, report: content, **limits):
    """Return an application that answers what a job makes of a body, and its desk."""
    limits = Limits(**limits)
    desk = Desk(limits.wait)

    async def answer(request):
        content = await read_body(request, limits)
        return Response(await desk.work(request, lambda report: job(content, report)))

    async def refuse(request, error):
        return JSONResponse({"detail": error.detail}, error.status_code, error.headers)

    routes, handlers = [Route("/", answer, methods=["POST"])], dict.fromkeys((408, 413, 422, 429), refuse)
    app = Starlette(routes=routes, exception_handlers=handlers)
    app.add_middleware(Guard, limits=limits)
    return app, desk


class Client:
    """One exchange with an application, without a network.

    Args:
        app: to call.
        chunks: of the body; a last None stands for more that never comes.
        takes: whether the client reads its answer.
        scope: changes to `SCOPE`.
    """

    def __init__(self, app, chunks=(b"picture",), takes=True, **scope):
        self._app, self._scope, self._takes = app, SCOPE | scope, takes
        self._chunks, self._left = list(chunks), asyncio.Event()
        self.received, self.messages = 0, []

    async def __call__(self):
        await self._app(self._scope, self.receive, self._send)
        return self

    def leave(self):
        """Close the connection."""
        self._left.set()

    async def receive(self):
        """Give the application the next chunk."""
        if self._chunks and self._chunks[0] is not None:
            self.received += 1
            chunk = self._chunks.pop(0)
            return {"type": "http.request", "body": chunk, "more_body": bool(self._chunks)}
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message):
        self.messages.append(message)
        if message.get("body") and not self._takes:
            await asyncio.Event().wait()

    @property
    def status(self):
        """Status of the answer."""
        return self.messages[0]["status"]

    @property
    def headers(self):
        """Headers of the answer, by name."""
        return {name.decode(): value.decode() for name, value in self.messages[0]["headers"]}

    @property
    def body(self):
        """Body of the answer."""
        return b"".join(message.get("body", b"") for message in self.messages)

    @property
    def detail(self):
        """Why the request was refused."""
        return json.loads(self.body)["detail"]


@pytest.fixture
def log(caplog):
    caplog.set_level(logging.INFO, "dpmambair.http_limits")
    return caplog


@contextmanager
def held():
    """Give a job that waits, once it has begun, for the end of the block; and the events of both."""
    begun, ended = threading.Event(), threading.Event()

    def job(content, report):
        begun.set()
        assert ended.wait(60)
        report(1, 2)
        return content

    try:
        yield job, begun, ended
    finally:
        ended.set()


async def until(event):
    """Wait for an event of another thread."""
    assert await asyncio.to_thread(event.wait, 60)


@pytest.mark.parametrize("name", ["body", "pixels", "places", "wait", "transfer"])
@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_limits_are_positive_numbers(name, value):
    with pytest.raises(ValueError, match=f"`{name}` must be a positive number, got {value}; .* is usual"):
        Limits(**{name: value})


# Bodies


def test_a_body_is_read_no_further_than_its_limit():
    app, _ = make_app(body=10)
    client = Client(app, [b"12345"] * 1000)
    asyncio.run(client())
    assert (client.status, client.detail) == (413, "a body must be at most 10 bytes, got more; send a smaller file")
    # After the answer the rest is thrown away, so that the client can read it.
    start = [index for index, message in enumerate(client.messages) if message["type"] == "http.response.start"]
    assert (start, client.received) == ([0], 1000)


def test_a_body_that_declares_too_much_is_not_read():
    app, _ = make_app(body=10)
    client = Client(app, [], headers=[(b"content-length", b"11")])
    client.leave()
    asyncio.run(client())
    assert (client.status, client.detail) == (413, "a body must be at most 10 bytes, got 11; send a smaller file")


def test_a_body_that_does_not_arrive_in_time_is_refused():
    app, _ = make_app(transfer=SOON)
    client = Client(app, [b"12345", None])
    asyncio.run(client())
    rule = "a body must arrive within 0.05 seconds, got 5 bytes of it; send it faster"
    assert (client.status, client.detail) == (408, rule)


def test_a_client_that_leaves_while_it_sends_gets_no_answer_and_frees_its_place(log):
    app, _ = make_app(places=1)

    async def run():
        client = Client(app, [b"12345", None])
        client.leave()
        await client()
        return client, await Client(app)()

    gone, next_one = asyncio.run(run())
    assert (gone.messages, next_one.status) == ([], 200)
    assert "client left" in log.messages[0]


# Places and turns


def test_a_request_without_a_place_is_told_to_come_again():
    with held() as (job, begun, ended):
        app, _ = make_app(job, places=2)

        async def run():
            inside = [asyncio.create_task(Client(app)()) for _ in range(2)]
            await until(begun)
            outside = await Client(app)()
            elsewhere = await Client(app, [b""], method="GET", path="/elsewhere")()
            ended.set()
            return [client.status for client in await asyncio.gather(*inside)], outside, elsewhere

        statuses, outside, elsewhere = asyncio.run(run())
    assert (statuses, outside.status, elsewhere.status) == ([200, 200], 429, 404)
    assert outside.detail == "requests must be at most 2 at once, got one more; try again later"
    assert int(outside.headers["retry-after"]) > 0


def test_a_request_that_waits_too_long_is_told_to_come_again():
    with held() as (job, begun, ended):
        app, _ = make_app(job, wait=SOON)

        async def run():
            first = asyncio.create_task(Client(app)())
            await until(begun)
            second = await Client(app)()
            ended.set()
            return await first, second

        first, second = asyncio.run(run())
    # The first has waited for its work to end, which is not a wait for its turn.
    assert (first.status, second.status) == (200, 429)
    assert second.detail == "a turn must come within 0.05 seconds, got none; try again later"
    assert int(second.headers["retry-after"]) > 0


def test_one_job_is_at_work_at_a_time_in_the_order_of_arrival():
    at_work, most, order = [], [], []

    def job(content, report):
        at_work.append(content)
        most.append(len(at_work))
        time.sleep(0.01)
        order.append(at_work.pop())
        return content

    app, _ = make_app(job)

    async def run():
        return await asyncio.gather(*(Client(app, [b"%d" % index])() for index in range(8)))

    clients = asyncio.run(run())
    assert max(most) == 1
    assert order == [client.body for client in clients] == [b"%d" % index for index in range(8)]


def test_work_that_waits_is_dropped_with_its_data_when_its_client_leaves():
    worked, kept = [], []
    with held() as (wait, begun, ended):

        def work(content, report):
            worked.append(content)
            return wait(content, report)

        class Job:
            """A job that a weak reference can watch."""

            def __init__(self, content):
                self._content = content

            def __call__(self, report):
                return work(self._content, report)

        desk = Desk(wait=60)

        async def run():
            first = asyncio.create_task(desk.work(Client(None, []), Job(b"first")))
            await until(begun)
            client, job = Client(None, []), Job(b"second")
            watched = weakref.ref(job)
            second = asyncio.create_task(desk.work(client, job))
            del job
            await asyncio.sleep(SOON)
            client.leave()
            await asyncio.wait([second])
            assert isinstance(second.exception(), ClientDisconnect)
            del second  # whose traceback holds the job too
            gc.collect()
            kept.append(watched())
            ended.set()
            await first
            return await desk.work(Client(None, []), Job(b"third"))

        assert asyncio.run(run()) == b"third"
    assert (worked, kept) == ([b"first", b"third"], [None])


def test_work_is_stopped_after_its_step_when_its_client_leaves(log):
    stopped = threading.Event()
    with held() as (wait, begun, ended):

        def job(content, report):
            try:
                return wait(content, report)
            except ClientDisconnect:
                stopped.set()
                raise

        app, _ = make_app(job, places=1)

        async def run():
            client = Client(app)
            working = asyncio.create_task(client())
            await until(begun)
            client.leave()
            await working
            ended.set()
            await until(stopped)
            return client, await Client(app)()

        client, next_one = asyncio.run(run())
    assert (client.messages, next_one.status) == ([], 200)
    assert "client left" in log.messages[0]


def test_closing_drops_what_waits_and_ends_the_thread():
    before, started = set(threading.enumerate()), []
    with held() as (wait, begun, ended):

        def job(name):
            started.append(name)
            wait(b"", lambda done, total: None)

        desk = Desk(wait=60)

        async def run():
            first = asyncio.create_task(desk.prepare(lambda: job("first")))
            await until(begun)
            second = asyncio.create_task(desk.prepare(lambda: job("second")))
            await asyncio.sleep(0)  # so that it stands in line
            closing = asyncio.create_task(asyncio.to_thread(desk.close))
            with pytest.raises(asyncio.CancelledError):
                await second
            ended.set()
            await asyncio.gather(first, closing)

        asyncio.run(run())
    assert started == ["first"]
    assert not [thread.name for thread in set(threading.enumerate()) - before if thread.name.startswith("desk")]


# Answers


def test_an_answer_that_is_not_taken_frees_its_place(log):
    app, _ = make_app(lambda content, report: bytes(10 * PIECE), places=1, transfer=SOON)

    async def run():
        return await Client(app, takes=False)(), await Client(app)()

    slow, quick = asyncio.run(run())
    assert (len(slow.body), len(quick.body)) == (PIECE, 10 * PIECE)
    assert slow.messages[-1]["more_body"]  # so the server closes the connection
    assert not quick.messages[-1]["more_body"]
    assert "answer not taken" in log.messages[0]


def test_an_answer_is_whole_only_when_the_client_has_sent_everything():
    app, _ = make_app(body=1)
    client = Client(app, [b"12", b"34", b"56"])
    asyncio.run(client())
    assert [message.get("more_body") for message in client.messages] == [None, True, False]
    assert (client.received, client.messages[-1]["body"]) == (3, b"")


def test_a_client_that_sends_for_ever_is_not_listened_to_for_ever():
    app, _ = make_app(body=1, transfer=SOON)
    client = Client(app, [b"12", b"34", None])
    asyncio.run(asyncio.wait_for(client(), 10))
    assert (client.status, client.messages[-1]["more_body"]) == (413, False)


def test_a_failure_is_answered_and_logged_with_its_trace(log):
    def fail(content, report):
        raise KeyError("haze")

    app, _ = make_app(fail)
    client = Client(app)
    asyncio.run(client())
    assert (client.status, client.detail) == (500, "the server failed at this request; its log says why")
    assert (log.records[0].levelname, log.records[0].exc_info[0]) == ("ERROR", KeyError)


def test_each_request_is_one_line_of_log_without_control_characters(log):
    app, _ = make_app()
    asyncio.run(Client(app)())
    asyncio.run(Client(app, path="/a\r\nGET /fake 200\x1b[31m\u202e")())
    first, second = log.messages
    assert first.startswith("10.0.0.1 POST / 200 ")
    assert second.startswith("10.0.0.1 POST /a%0D%0AGET%20/fake%20200%1B%5B31m%E2%80%AE 404 ")


def test_other_protocols_pass(log):
    started = []

    async def app(scope, receive, send):
        started.append(scope["type"])

    asyncio.run(Guard(app, Limits())({"type": "lifespan"}, None, None))
    assert (started, log.messages) == (["lifespan"], [])


# uvicorn


@contextmanager
def serving(app, idle=60):
    """Serve an application by uvicorn in a thread, and give a function that opens a connection to it."""
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        app,
        http=PatientProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        timeout_keep_alive=idle,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()

    address = listener.getsockname()
    try:
        yield lambda: socket.create_connection(address, timeout=30)
    finally:
        server.should_exit = server.force_exit = True
        thread.join(60)
        listener.close()


def read_all(connection):
    """Return what comes until the server closes."""
    received = b""
    while data := connection.recv(2**16):
        received += data
    return received


def split(answer):
    """Return the status and the JSON of the one answer that a connection gave."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert f"content-length: {len(body)}".encode() in head.lower().split(b"\r\n")
    return int(head.split()[1]), json.loads(body)


POST = b"POST / HTTP/1.1\r\nHost: a\r\n"


@pytest.mark.parametrize(
    "request_",
    {
        "negative length": POST + b"Content-Length: -1\r\n\r\n" + bytes(2_000_000),
        "length in words": POST + b"Content-Length: ten\r\n\r\n" + bytes(2_000_000),
        "two lengths": POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n" + bytes(2_000_000),
        "unknown encoding": POST + b"Transfer-Encoding: pigeon\r\n\r\n" + bytes(2_000_000),
        "broken chunk": POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n" + bytes(2_000_000),
        "negative chunk": POST + b"Transfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n",
        "endless header": POST + b"a: " + b"a" * 200_000,
        "header with a zero": POST + b"a: \0\r\n\r\n",
        "no host": b"POST / HTTP/1.1\r\n\r\n",
        "handshake of TLS": b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + bytes(200) + b"\r\n\r\n",
        "no HTTP": b"EHLO mail\r\n\r\n",
    }.items(),
    ids=lambda item: item[0],
)
def test_what_is_no_http_is_refused_in_json_and_the_client_can_read_it(request_, log):
    with serving(make_app()[0]) as connect, connect() as connection:
        connection.sendall(request_[1])
        assert split(read_all(connection)) == (400, {"detail": "Invalid HTTP request received."})
    assert log.messages.count("Invalid HTTP request received.") == 1


@pytest.mark.parametrize("start", [b"", b"POS", POST, POST + b"a: "], ids=["silence", "word", "line", "header"])
def test_a_request_whose_headers_trickle_loses_its_connection(start):
    with serving(make_app()[0], idle=0.2) as connect, connect() as connection:
        connection.sendall(start)
        connection.settimeout(0.02)
        began = time.monotonic()
        while time.monotonic() - began < 20:
            try:
                if not connection.recv(1):
                    break
            except TimeoutError:
                connection.sendall(b"a" if start else b"")
            except ConnectionError:
                break
        assert 0.1 < time.monotonic() - began < 10


def test_a_body_that_trickles_is_refused():
    with serving(make_app(transfer=0.3)[0], idle=0.2) as connect, connect() as connection:
        connection.sendall(POST + b"Content-Length: 1000\r\n\r\n")
        connection.settimeout(0.02)
        received = b""
        while b"}" not in received:
            try:
                received += connection.recv(2**16)
            except TimeoutError:
                connection.sendall(b"a")
        status, answer = split(received)
    assert (status, answer["detail"].startswith("a body must arrive within 0.3 seconds")) == (408, True)


def pour(connection):
    """Send at some speed, for a minute at most."""
    for _ in range(60_000):
        connection.send(bytes(10_000))
        time.sleep(0.001)


def test_a_refused_client_that_pours_on_loses_its_connection():
    with serving(make_app(body=10, transfer=0.2)[0], idle=0.2) as connect, connect() as connection:
        connection.sendall(POST + b"Content-Length: 100000000000\r\n\r\n")
        with pytest.raises(ConnectionError):
            pour(connection)


def test_a_long_work_is_no_reason_to_close():
    app, _ = make_app(lambda content, report: time.sleep(1.5) or content)
    with serving(app, idle=0.2) as connect, connect() as connection:
        connection.sendall(POST + b"Connection: close\r\nContent-Length: 4\r\n\r\nlong")
        assert read_all(connection).endswith(b"\r\n\r\nlong")


def test_a_connection_serves_further_requests_after_a_refusal():
    with serving(make_app(body=100_000)[0]) as connect, connect() as connection:
        client = http.client.HTTPConnection("127.0.0.1")
        client.sock = connection
        for size, status in ((10, 200), (5_000_000, 413), (10, 200), (100_001, 413), (100_000, 200)):
            client.request("POST", "/", bytes(size))
            answer = client.getresponse()
            assert (answer.status, len(answer.read()) == size) == (status, status == 200)


def test_a_client_that_closes_after_its_request_can_read_an_early_answer():
    # As urllib does, which sends everything before it reads.
    with serving(make_app(body=10)[0]) as connect, connect() as connection:
        connection.sendall(POST + b"Connection: close\r\nContent-Length: 20000000\r\n\r\n" + bytes(20_000_000))
        status, answer = split(read_all(connection))
    assert (status, answer["detail"]) == (413, "a body must be at most 10 bytes, got 20000000; send a smaller file")


@pytest.mark.ci
@pytest.mark.slow
def test_an_answer_that_nobody_reads_costs_its_connection(log):
    app, _ = make_app(lambda content, report: bytes(20_000_000), places=1, transfer=2)
    request = POST + b"Connection: close\r\nContent-Length: 1\r\n\r\na"
    with serving(app, idle=0.2) as connect, connect() as silent:
        silent.sendall(request)
        deadline = time.monotonic() + 20
        while not log.messages and time.monotonic() < deadline:
            time.sleep(0.05)
        assert "answer not taken" in log.messages[0]
        with connect() as eager:
            eager.sendall(request)
            assert len(read_all(eager)) > 20_000_000
        time.sleep(1)
        assert len(read_all(silent)) < 20_000_000  # what the system holds, and then the end
