"""Restore photographs over HTTP: `dpmambair-serve`, and `create_app` for a server of your own.

POST a picture to `/restore` and get it back restored, or to `/describe` and get what had spoiled it. Needs the extra
`serve`. The command exits with status 2 where it could not begin.
"""

import logging
import socket
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from PIL import Image

from dpmambair import __version__
from dpmambair.memory import is_short, keep_freed_memory, limit_growth
from dpmambair.request import MEMORY, check_model
from dpmambair.settings import Settings, split_kinds
from dpmambair.shipped import SHIPPED

try:
    import uvicorn
    from fastapi import FastAPI, HTTPException, Query, Request
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import HTMLResponse, JSONResponse, Response
    from pydantic import BaseModel, ConfigDict, Field

    from dpmambair.http_limits import Desk, Guard, Limits, PatientProtocol, Progress, Result, read_body
except ImportError as error:
    raise ImportError(f'dpmambair.serve needs {error.name}; run: pip install "dpmambair[serve]"') from error

if TYPE_CHECKING:
    from modeling_dpmambair import Picture, Restorer

# Bytes that a pixel takes from file to file, beside its restoration; and those of everything else.
PIXEL_BYTES, SLACK = 100, 2**30
# Seconds that a connection may stay idle, and that requests may still take when the server is stopped.
IDLE, FAREWELL = 10, 30

main = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


class Options(BaseModel):
    """What the query of a request may ask for; errors name the descriptions as rules."""

    model_config = ConfigDict(extra="forbid")

    strength: float = Field(1, ge=0, allow_inf_nan=False, description="a number from 0 up, where 1 restores")
    format: Literal["png", "jpeg", "webp", "tiff", "avif"] | None = Field(
        None, description="one of png, jpeg, webp, tiff and avif"
    )
    quality: int | None = Field(None, ge=1, le=100, description="a whole number from 1 to 100")
    only: str | None = Field(None, description="kinds of degradation to repair, as haze,noise")
    keep: str | None = Field(None, description="kinds of degradation to leave, as snow; not beside `only`")
    self_ensemble: bool = Field(False, description="true or false, where true takes eight times as long")

    @property
    def settings(self) -> Settings:
        """The same as the command line's; a `ValueError` says what cannot be."""
        kinds = split_kinds(self.only), split_kinds(self.keep)
        return Settings(self.strength, self.format, self.quality, True, *kinds, self.self_ensemble)


class Problem(BaseModel):
    """Why a request was refused."""

    detail: str = Field(description="one line: the rule, what was got, and what to do")


class Finding(BaseModel):
    """How sure the model is of one kind of degradation."""

    presence: float = Field(ge=0, le=1, description="the probability that it is there")
    severity: float = Field(ge=0, le=1, description="how strong it is, if it is there")


class Health(BaseModel):
    """What the server is."""

    model: str = Field(description="name of the model's folder or repository")
    version: str = Field(description="of dpmambair")


def restore_content(restorer: "Restorer", settings: Settings, picture: "Picture", progress: Progress) -> Response:
    """Restore a picture, and return the answer with the content of its file."""
    from dpmambair.pictures import encode

    format = settings.choose_format(picture.format)
    content = encode(restorer.restore_picture(picture, settings.strength, progress), format, settings)
    return Response(content, media_type=Image.MIME[format])


def describe_picture(restorer: "Restorer", picture: "Picture") -> dict[str, Finding]:
    """Tell what spoiled a picture."""
    from dpmambair.pictures import describe_degradations

    detected = describe_degradations(restorer, picture, restorer.embed(picture))
    return {kind: Finding(**values) for kind, values in detected.items()}


@contextmanager
def refusing() -> Iterator[None]:
    """Turn what reading, restoring and writing raise because of a picture into answers.

    Raises:
        HTTPException: 413 where pixels are too many or memory is too short, otherwise 422.
    """
    from modeling_dpmambair.picture_errors_dpmambair import TooManyPixelsError

    try:
        yield
    except (FloatingPointError, OSError, ValueError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise HTTPException(413 if isinstance(error, TooManyPixelsError) else 422, reason) from error
    except (Image.DecompressionBombError, MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not is_short(error):
            raise
        rule = "a picture must fit into the server's memory"
        raise HTTPException(413, f"{rule}, got one that does not; resize it") from error


def explain(error: RequestValidationError) -> str:
    """Return the first reason for which a query was refused, in one line."""
    first = error.errors()[0]
    name, given = str(first["loc"][-1]), str(first["input"])
    if name not in Options.model_fields:
        return f"a query must consist of {', '.join(Options.model_fields)}, got {name[:80]!r}; leave it out"
    return f"`{name}` must be {Options.model_fields[name].description}, got {given[:80]!r}; correct it"


class Service:
    """The endpoints.

    Args:
        restorer: a trained model.
        limits: how much it takes on.
    """

    def __init__(self, restorer: "Restorer", limits: Limits) -> None:
        self._restorer, self._limits = restorer, limits
        self._desk = Desk(limits.wait)

    @asynccontextmanager
    async def lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        """Restore a first picture, which compiles the kernels, and in the end stop the work."""
        await self._desk.prepare(partial(self._restorer, Image.new("RGB", (64, 64))))
        yield
        self._desk.close()

    async def restore(self, request: Request, options: Annotated[Options, Query()]) -> Response:
        """Restore a picture, sent as the body or as the one file of a form.

        It comes back in the same size, and in its own format unless another is asked for. A quality is for JPEG, WebP
        and AVIF.
        """
        with refusing():
            settings = options.settings
            restorer = settings.control(self._restorer)
        return await self._work(request, partial(restore_content, restorer, settings))

    async def describe(self, request: Request) -> dict[str, Finding]:
        """Tell what spoiled a picture, sent likewise."""
        return await self._work(request, lambda picture, _: describe_picture(self._restorer, picture))

    async def health(self) -> Health:
        """Tell that the server answers, also while it restores."""
        return Health(model=Path(self._restorer.model.name_or_path).name, version=__version__)

    async def _work(self, request: Request, job: Callable[["Picture", Progress], Result]) -> Result:
        content = await read_body(request, self._limits)
        with refusing():
            return await self._desk.work(request, partial(self._read_and, job, content))

    def _read_and(self, job: Callable[["Picture", Progress], Result], content: bytes, progress: Progress) -> Result:
        from modeling_dpmambair import read_picture

        return job(read_picture(content, self._limits.pixels), progress)


PICTURE = {"schema": {"type": "string", "format": "binary"}}
FORM = {"schema": {"type": "object", "properties": {"file": PICTURE["schema"]}, "required": ["file"]}}
BODY = {"requestBody": {"required": True, "content": {"image/*": PICTURE, "multipart/form-data": FORM}}}
REFUSALS: dict[int | str, dict[str, Any]] = {
    408: {"model": Problem, "description": "The body did not arrive in time."},
    413: {"model": Problem, "description": "Too many bytes or pixels."},
    422: {"model": Problem, "description": "No picture, a damaged one, or an impossible query."},
    429: {"model": Problem, "description": "Too many requests in line; `Retry-After` has the seconds to wait."},
}
RESTORED: dict[int | str, dict[str, Any]] = {200: {"content": {"image/*": PICTURE}, "description": "The picture."}}
DESCRIBED: dict[int | str, dict[str, Any]] = {200: {"description": "Presence and severity of each kind, 0 to 1."}}


def create_app(restorer: "Restorer", limits: Limits | None = None) -> FastAPI:
    """Make the application, for any server that speaks ASGI.

    Args:
        restorer: a trained model; the application uses it for one picture at a time, in a thread of its own.
        limits: how much it takes on (default: `Limits()`).
    """
    limits = limits or Limits()
    service = Service(restorer, limits)
    # FastAPI's own pages load scripts from elsewhere.
    app = FastAPI(
        title="DPMambaIR", version=__version__, docs_url=None, redoc_url=None, redirect_slashes=False,
        lifespan=service.lifespan,
    )  # fmt: skip
    app.add_middleware(Guard, limits=limits)
    posting = {"methods": ["POST"], "openapi_extra": BODY}
    app.add_api_route("/restore", service.restore, response_class=Response, responses=REFUSALS | RESTORED, **posting)
    if restorer.model.config.has_description:
        app.add_api_route("/describe", service.describe, responses=REFUSALS | DESCRIBED, **posting)
    app.add_api_route("/health", service.health, response_description="Name of the model, and version.")
    app.add_api_route("/docs", lambda: HTMLResponse(draw_page(app.openapi())), include_in_schema=False)
    app.add_exception_handler(RequestValidationError, lambda _, error: JSONResponse({"detail": explain(error)}, 422))
    return app


PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<style>body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 45rem; margin: 2rem auto; padding: 0 1rem }}
dl {{ display: grid; grid-template-columns: max-content 1fr; gap: 0.25rem 1rem }} dd {{ margin: 0 }}</style></head>
<body><h1>{title} {version}</h1>
<p>For programs: <a href="openapi.json">openapi.json</a>. From a shell:</p>
<pre>curl --data-binary @photo.jpg http://127.0.0.1:8000/restore -o restored.jpg</pre>
{rows}</body></html>
"""


def draw_page(schema: dict[str, Any]) -> str:
    """Draw an OpenAPI description as a page that loads nothing from anywhere."""
    rows = []
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            named = [(each["name"], each["description"]) for each in operation.get("parameters", [])]
            named += [(status, answer["description"]) for status, answer in operation["responses"].items()]
            table = "".join(f"<dt><code>{escape(name)}</code></dt><dd>{escape(text)}</dd>" for name, text in named)
            head = f"<h2><code>{method.upper()} {escape(path)}</code></h2>"
            rows.append(f"{head}<p>{escape(operation['description'])}</p><dl>{table}</dl>")
    about = {name: escape(schema["info"][name]) for name in ("title", "version")}
    return PAGE.format(rows="\n".join(rows), **about)


@main.command()
def serve(
    model: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder of a trained model.", show_default="the shipped one")
    ] = SHIPPED,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 is every one of this machine.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 is any free one.")] = 8000,
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16"], typer.Option(help="auto: bfloat16 where the device is faster in it.")
    ] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    memory: Annotated[
        float, typer.Option(min=0, max=1024, metavar="GIB", help="Restore in tiles what would take more than this.")
    ] = MEMORY,
    max_megabytes: Annotated[int, typer.Option(min=1, help="Size of a file.")] = Limits.body // 10**6,
    max_megapixels: Annotated[int, typer.Option(min=1, help="Size of a picture.")] = Limits.pixels // 10**6,
    places: Annotated[int, typer.Option(min=1, help="Requests that are taken on at once.")] = Limits.places,
    wait: Annotated[float, typer.Option(min=1, help="Seconds that a picture waits for its turn.")] = Limits.wait,
) -> None:
    """Serve restoration over HTTP, until interrupted. /docs on the server describes it.

    Exit status 2: the server could not begin.
    """
    try:
        check_model(model)
        limits = Limits(max_megabytes * 10**6, max_megapixels * 10**6, places, wait)
        listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
        # Here, because torch comes with it, which help can do without.
        from transformers.utils import logging as transformers_logging

        from modeling_dpmambair import Restorer

        keep_freed_memory(returns_large=True)
        transformers_logging.disable_progress_bar()
        restorer = Restorer.from_pretrained(model, device, dtype, int(memory * 2**30))
        if restorer.model.device.type == "cpu":  # CUDA reserves far more than it takes
            limit_growth(restorer.memory_budget + bytes_taken(limits))
    except (OSError, ValueError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
    run(create_app(restorer, limits), listener)


def bytes_taken(limits: Limits) -> int:
    """Return how much memory requests may take beside a restoration: bodies, one picture, and what decoders need."""
    return 3 * limits.body * limits.places + PIXEL_BYTES * limits.pixels + SLACK


def run(app: FastAPI, listener: socket.socket) -> None:
    """Serve an application on a socket that listens, until a signal ends it; its log goes to stderr."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
    for name in ("dpmambair", "uvicorn"):
        logging.getLogger(name).setLevel(logging.INFO)
    # Pillow warns of large photographs, and of damage that it then either survives or raises.
    warnings.filterwarnings("ignore", module="PIL")
    host, port = listener.getsockname()[:2]
    typer.echo(f"serving on http://{f'[{host}]' if ':' in host else host}:{port}")
    config = uvicorn.Config(
        app, http=PatientProtocol, ws="none", lifespan="on", log_config=None, access_log=False, server_header=False,
        proxy_headers=False, timeout_keep_alive=IDLE, timeout_graceful_shutdown=FAREWELL,
    )  # fmt: skip
    with suppress(KeyboardInterrupt):
        uvicorn.Server(config).run([listener])


if __name__ == "__main__":
    main()
