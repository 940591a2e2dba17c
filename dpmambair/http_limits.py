"""What bounds a service of strangers: bodies, places, turns, patience; with a line of log for each request.

| bound | by |
|---|---|
| bytes of a body, and the time that it takes | `read_body` |
| requests inside at once, and the time that their answers take | `Guard` |
| jobs at work (one), and the time that others wait for it | `Desk` |
| time that headers take, and that connections idle | `PatientProtocol`, as uvicorn alone has no such limit |
"""

import asyncio
import json
import logging
import math
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import quote

import h11
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

Result = TypeVar("Result")
Progress = Callable[[int, int], None]

# Seconds after which a client may try again that found no place or no turn.
RETRY_AFTER = 5
# Bytes of an answer that are handed on at once, so that whoever does not take them is noticed.
PIECE = 2**16

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """How much a service takes on.

    Attributes:
        body: of a request, bytes.
        pixels: of a picture, of an animation all frames together.
        places: requests that may be inside at once: one is worked on, the others arrive, wait or leave.
        wait: for a turn, seconds.
        transfer: time within which a body must arrive, and an answer be taken, seconds.
    """

    body: int = 50_000_000
    pixels: int = 25_000_000
    places: int = 16
    wait: float = 60
    transfer: float = 60

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 < value < math.inf:
                raise ValueError(f"`{name}` must be a positive number, got {value}; {getattr(Limits, name)} is usual")


async def read_body(request: Request, limits: Limits) -> bytes:
    """Return the file that a request brings: its body, or the one file of a form.

    Raises:
        HTTPException: the body is too large, does not arrive in time, or is no such form.
        ClientDisconnect: the client left.
    """
    declared, rule = request.headers.get("content-length", ""), f"a body must be at most {limits.body} bytes"
    if declared.isdecimal() and int(declared[:20]) > limits.body:
        raise HTTPException(413, f"{rule}, got {declared[:20]}; send a smaller file")
    body = bytearray()
    try:
        async with asyncio.timeout(limits.transfer):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limits.body:
                    raise HTTPException(413, f"{rule}, got more; send a smaller file")
    except TimeoutError as error:
        rule = f"a body must arrive within {limits.transfer:g} seconds, got {len(body)} bytes of it"
        raise HTTPException(408, f"{rule}; send it faster") from error
    if request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        return await _read_form(request, bytes(body))
    return bytes(body)


class _FormInMemory(MultiPartParser):
    spool_max_size = sys.maxsize  # the body is in memory already, within its limit


async def _read_form(request: Request, body: bytes) -> bytes:
    async def whole() -> AsyncIterator[bytes]:
        yield body

    try:
        form = await _FormInMemory(request.headers, whole(), max_files=1, max_fields=0).parse()
    except MultiPartException as error:
        raise HTTPException(422, f"a form must be one file, got {error.message!r}; send the file alone") from error
    files = [value for value in form.values() if isinstance(value, UploadFile)]
    if not files:
        raise HTTPException(422, "a form must be one file, got none; send the file as one of its fields")
    content = await files[0].read()
    await form.close()
    return content


class Desk:
    """One thread that works on one job after the other, in the order in which they came.

    Args:
        wait: for a turn, seconds.
    """

    def __init__(self, wait: float) -> None:
        self._wait = wait
        self._worker = ThreadPoolExecutor(1, "desk")

    async def prepare(self, job: Callable[[], object]) -> None:
        """Do a job before there are requests."""
        await asyncio.wrap_future(self._worker.submit(job))

    async def work(self, request: Request, job: Callable[[Progress], Result]) -> Result:
        """Do a job for a request whose body has been read.

        Args:
            request: when its client leaves, a job that waits is dropped, and one at work is stopped after its step.
            job: the work; it calls what it is given after each of its steps.

        Raises:
            HTTPException: its turn did not come in time.
            ClientDisconnect: the client left.
        """
        is_over = threading.Event()

        def report(done: int, total: int) -> None:
            if is_over.is_set():
                raise ClientDisconnect

        box = [job]  # emptied at the end: a job that was dropped still stands in line, and must not hold its data
        future = self._worker.submit(lambda: box.pop()(report))
        working, leaving = asyncio.wrap_future(future), asyncio.create_task(_wait_for_leaving(request))
        both = {working, leaving}
        try:
            done, _ = await asyncio.wait(both, timeout=self._wait, return_when=asyncio.FIRST_COMPLETED)
            if not done and future.cancel():  # which fails for a job at work
                rule = f"a turn must come within {self._wait:g} seconds, got none"
                raise HTTPException(429, f"{rule}; try again later", {"Retry-After": str(RETRY_AFTER)})
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                raise ClientDisconnect
            return working.result()
        finally:
            is_over.set()
            working.cancel()
            leaving.cancel()
            box.clear()

    def close(self) -> None:
        """Drop the jobs that wait, and wait for the one at work."""
        self._worker.shutdown(cancel_futures=True)


async def _wait_for_leaving(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class AnswerNotTakenError(Exception):
    """A client reads its answer too slowly, or not at all."""


class Guard:
    """ASGI middleware that bounds how many POST requests are inside, and how long their answers may take.

    A POST request for which there is no place is refused with 429. A place is held from before the body is read until
    the answer is taken, so that bodies and answers in memory are bounded as well.

    Args:
        app: what is guarded.
        limits: how much it takes on.
    """

    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        self._app, self._limits = app, limits
        self._taken = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, in the way of every ASGI application."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange, began = _Exchange(receive, send, self._limits.transfer), time.monotonic()
        try:
            await self._answer(scope, exchange)
            await exchange.finish()
        except ClientDisconnect:
            pass
        except AnswerNotTakenError:
            exchange.outcome = "answer not taken"  # as it is not whole, the server closes the connection
        finally:
            client = scope["client"][0] if scope.get("client") else "-"
            request = f"{client} {scope['method']} {quote(scope['path'])}"
            logger.info("%s %s %.2f s", request, exchange.outcome, time.monotonic() - began)

    async def _answer(self, scope: Scope, exchange: "_Exchange") -> None:
        needs_place = scope["method"] == "POST"
        if needs_place and self._taken >= self._limits.places:
            detail = f"requests must be at most {self._limits.places} at once, got one more; try again later"
            await _refuse(scope, exchange, 429, detail, {"Retry-After": str(RETRY_AFTER)})
            return
        self._taken += needs_place
        try:
            await self._app(scope, exchange.receive, exchange.send)
        except (ClientDisconnect, AnswerNotTakenError):
            raise
        except Exception:
            if exchange.is_started:
                raise
            logger.exception("the application failed")
            await _refuse(scope, exchange, 500, "the server failed at this request; its log says why")
        finally:
            self._taken -= needs_place


async def _refuse(
    scope: Scope, exchange: "_Exchange", status: int, detail: str, headers: dict[str, str] | None = None
) -> None:
    await JSONResponse({"detail": detail}, status, headers)(scope, exchange.receive, exchange.send)


class _Exchange:
    """One request and its answer.

    A client that still sends when its answer is ready must be able to read it, and would not if the connection were
    closed while it sends. So the answer is sent, then what still comes is thrown away, for a time, and only then the
    answer is declared whole.
    """

    def __init__(self, receive: Receive, send: Send, patience: float) -> None:
        self._receive, self._send, self._patience = receive, send, patience
        self._is_read = self._is_answered = self.is_started = False
        self.outcome = "client left"

    async def receive(self) -> Message:
        message = await self._receive()
        self._is_read = not message.get("more_body", False)  # or the client left
        return message

    async def send(self, message: Message) -> None:
        if message["type"] != "http.response.body":
            self.is_started, self.outcome = True, str(message.get("status", ""))
            await self._send(message)
            return
        body = message.get("body", b"")
        try:
            async with asyncio.timeout(self._patience):
                for start in range(0, len(body), PIECE):
                    piece = body[start : start + PIECE]
                    await self._send({"type": "http.response.body", "body": piece, "more_body": True})
        except TimeoutError as error:
            raise AnswerNotTakenError from error
        self._is_answered = not message.get("more_body", False)

    async def finish(self) -> None:
        """Let the client send to its end, and declare the answer whole."""
        if not self._is_answered:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(self._patience):
                while not self._is_read:
                    await self.receive()
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})


class PatientProtocol(H11Protocol):
    """uvicorn's HTTP/1.1, which also closes connections that keep it waiting, and refuses in JSON what is no HTTP.

    A connection is closed on which no request begins, or an answered one does not end, within `timeout_keep_alive` to
    twice that. While the application is at work on a request, the application keeps the time.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Begin to watch a connection."""
        super().connection_made(transport)
        self._stuck: object = None
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop watching it."""
        self._watching.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read on, except from a client that was refused: what it still sends is thrown away."""
        if self.conn.their_state is not h11.ERROR:
            super().data_received(data)

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP, and leave the connection open for a while, so that the client can read why."""
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return
        body = json.dumps({"detail": msg}).encode()
        headers = [("content-type", "application/json"), ("content-length", str(len(body))), ("connection", "close")]
        response = h11.Response(status_code=400, headers=headers, reason=b"Bad Request")
        for event in (response, h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event))
        if self.transport.can_write_eof():
            self.transport.write_eof()
        if self.cycle is not None:
            self.cycle.disconnected = True
            self.cycle.message_event.set()

    def _watch(self) -> None:
        self._watching = self.loop.call_later(self.timeout_keep_alive, self._close_if_stuck)

    def _close_if_stuck(self) -> None:
        is_closing = self.transport.is_closing()
        is_at_work = self.conn.our_state in (h11.SEND_RESPONSE, h11.SEND_BODY) and not is_closing
        stuck = None if is_at_work else (self.cycle, is_closing)
        if stuck and stuck == self._stuck:
            end = self.transport.abort if is_closing else self.transport.close
            end()
        self._stuck = stuck
        self._watch()
