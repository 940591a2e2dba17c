"""What the service answers: restored pictures, descriptions, and a clear word to everything else."""

import os
import socket
import subprocess
import sys
from io import BytesIO

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from starlette.testclient import TestClient
from typer.testing import CliRunner

from dpmambair.serve import Limits, create_app, main
from modeling_dpmambair import DPMambaIRImageProcessor, ImageRestorationPipeline, Restorer
from tests.dpmambair.hostile import FORM, GIANTS, encoded, form, giant_file, giant_jpeg, mistaken_files
from tests.modeling_dpmambair.models import small_model
from tests.restoring import photograph

WRITTEN = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp", "TIFF": "image/tiff", "AVIF": "image/avif"}
OTHERS = {"BMP": "image/bmp", "GIF": "image/gif", "JPEG2000": "image/jp2", "PPM": "image/x-portable-anymap"}
NAMES = ["strength", "format", "quality", "only", "keep", "self_ensemble"]
MISTAKEN = dict(mistaken_files())


@pytest.fixture(scope="module")
def restorer():
    torch.manual_seed(0)
    return Restorer(small_model(has_description=True, reads_description=True), DPMambaIRImageProcessor())


@pytest.fixture(scope="module")
def client(restorer):
    with TestClient(create_app(restorer, Limits(body=200_000, pixels=2_000))) as client:
        yield client


def opened(answer):
    """Return the picture that an answer holds."""
    return Image.open(BytesIO(answer.content))


def detail(answer, status):
    """Return why a request was refused, after a look at the form of the answer."""
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/json"), answer.content
    assert list(answer.json()) == ["detail"]
    (line,) = answer.json()["detail"].splitlines()
    return line


# Pictures


@pytest.mark.parametrize("format", ["PNG", "TIFF", "BMP", "PPM", "JPEG2000"])
def test_a_picture_comes_back_restored_in_its_own_format(client, restorer, format):
    answer = client.post("/restore", content=encoded(format))
    assert (answer.status_code, answer.headers["content-type"]) == (200, (WRITTEN | OTHERS)[format])
    assert opened(answer).format == format
    np.testing.assert_array_equal(opened(answer), restorer(photograph((40, 24))))


@pytest.mark.parametrize("format", ["JPEG", "WEBP", "AVIF", "GIF"])
def test_a_picture_of_a_lossy_format_comes_back_in_it(client, format):
    answer = client.post("/restore", content=encoded(format))
    assert (answer.headers["content-type"], opened(answer).format) == ((WRITTEN | OTHERS)[format], format)
    assert opened(answer).size == (40, 24)


def test_a_picture_of_a_format_that_is_not_written_comes_back_as_png(client, monkeypatch):
    content = encoded("PPM")
    monkeypatch.delitem(Image.SAVE, "PPM")
    answer = client.post("/restore", content=content)
    assert (answer.headers["content-type"], opened(answer).format) == ("image/png", "PNG")


@pytest.mark.parametrize("format", WRITTEN)
def test_a_format_that_was_asked_for_is_answered(client, format):
    answer = client.post("/restore", params={"format": format.lower()}, content=encoded("PNG"))
    assert (answer.headers["content-type"], opened(answer).format) == (WRITTEN[format], format)


def test_a_lower_quality_makes_a_smaller_file(client):
    def size(quality):
        return len(client.post(f"/restore?format=jpeg&quality={quality}", content=encoded("PNG")).content)

    assert size(10) < size(50) < size(100)


@pytest.mark.parametrize(
    ("query", "control"),
    [
        ("only=haze,noise", {"only": ["haze", "noise"]}),
        ("keep=rain", {"keep": ["rain"]}),
        ("self_ensemble=true", {"self_ensemble": True}),
    ],
)
def test_control_is_the_restorers(client, restorer, query, control):
    answer = client.post(f"/restore?{query}", content=encoded("PNG"))
    np.testing.assert_array_equal(opened(answer), restorer.controlled(**control)(photograph((40, 24))))


def test_strength_0_returns_the_picture(client):
    answer = client.post("/restore?strength=0", content=encoded("PNG"))
    np.testing.assert_array_equal(opened(answer), photograph((40, 24)))


def test_a_form_with_one_file_is_the_same_as_its_content(client):
    content = encoded("PNG")
    answers = [
        client.post("/restore", content=content),
        client.post("/restore", files={"any name": ("photo.png", content, "image/png")}),
    ]
    assert answers[0].content == answers[1].content


def test_the_description_is_that_of_the_pipeline(client, restorer):
    pipe = ImageRestorationPipeline(restorer.model, image_processor=restorer.processor)
    expected = pipe(photograph((40, 24)), return_description=True)["degradations"]
    found = client.post("/describe", content=encoded("PNG")).json()
    assert list(found) == ["haze", "rain", "noise"]
    for kind, values in expected.items():
        assert found[kind] == pytest.approx(values)


def test_a_model_that_cannot_describe_has_no_such_address():
    app = create_app(Restorer(small_model(), DPMambaIRImageProcessor()))
    assert detail(TestClient(app).post("/describe", content=encoded("PNG")), 404) == "Not Found"
    assert "/describe" not in app.openapi()["paths"]


def test_health_names_model_and_version(client):
    answer = client.get("/health")
    assert (answer.status_code, sorted(answer.json())) == (200, ["model", "version"])


def test_the_app_can_be_mounted_in_another(restorer):
    from fastapi import FastAPI

    outer = FastAPI()
    outer.mount("/photographs", create_app(restorer))
    assert opened(TestClient(outer).post("/photographs/restore", content=encoded("PNG"))).size == (40, 24)


# Its own description


def test_the_page_loads_nothing_and_names_every_answer(client):
    page = client.get("/docs").text
    for loading in ("<script", "src=", "<link", "@import", "url("):
        assert loading not in page
    for named in ("POST /restore", "POST /describe", "GET /health", "strength", "quality", "413", "422", "429"):
        assert named in page


def test_openapi_tells_what_to_send_and_what_comes(client):
    operation = client.get("/openapi.json").json()["paths"]["/restore"]["post"]
    assert set(operation["responses"]) == {"200", "408", "413", "422", "429"}
    assert set(operation["requestBody"]["content"]) == {"image/*", "multipart/form-data"}
    assert [parameter["name"] for parameter in operation["parameters"]] == NAMES


# Refusals


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("strength=-1", "`strength` must be a number from 0 up, where 1 restores, got '-1'; correct it"),
        ("strength=nan", "`strength` must be a number from 0 up, where 1 restores, got 'nan'; correct it"),
        ("strength=inf", "`strength` must be a number from 0 up, where 1 restores, got 'inf'; correct it"),
        ("strength=", "`strength` must be a number from 0 up, where 1 restores, got ''; correct it"),
        ("format=eps", "`format` must be one of png, jpeg, webp, tiff and avif, got 'eps'; correct it"),
        ("format=%0d%0a%1b", r"`format` must be one of png, jpeg, webp, tiff and avif, got '\r\n\x1b'; correct it"),
        ("quality=0", "`quality` must be a whole number from 1 to 100, got '0'; correct it"),
        ("quality=101", "`quality` must be a whole number from 1 to 100, got '101'; correct it"),
        ("quality=9.5", "`quality` must be a whole number from 1 to 100, got '9.5'; correct it"),
        ("strenght=1", f"a query must consist of {', '.join(NAMES)}, got 'strenght'; leave it out"),
        (
            "format=png&quality=90",
            "`quality` must be given with jpeg, webp, avif alone, got it with png; leave it out",
        ),
        ("only=fog", "`only` must be some of haze, rain, noise, got fog; check the spelling"),
        ("only=haze&keep=snow", "`only` must not stand beside `keep`, got both; leave one of them out"),
        (
            "self_ensemble=8",
            "`self_ensemble` must be true or false, where true takes eight times as long, got '8'; correct it",
        ),
    ],
)
def test_an_impossible_query_is_refused(client, query, reason):
    assert detail(client.post(f"/restore?{query}", content=encoded("PNG")), 422) == reason


@pytest.mark.parametrize("address", ["/restore", "/describe"])
@pytest.mark.parametrize("name", MISTAKEN)
def test_what_is_no_picture_is_refused(client, address, name):
    reason = detail(client.post(address, content=MISTAKEN[name]), 422)
    assert reason.startswith("`image` must be a picture in one of the formats")


def test_no_program_runs_for_a_picture(client, monkeypatch):
    def fail(*arguments, **options):
        raise AssertionError("a program was started")

    for name in ("Popen", "run", "check_call", "check_output"):
        monkeypatch.setattr(subprocess, name, fail)
    monkeypatch.setattr(os, "system", fail)
    detail(client.post("/restore", content=encoded("EPS")), 422)


@pytest.mark.parametrize(
    ("kind", "content", "reason"),
    [
        (FORM, b"", "a form must be one file, got none; send the file as one of its fields"),
        (FORM, form((b'name="a"', b"text")), "a form must be one file, got 'Too many fields."),
        (
            FORM,
            form(*[(b'name="a"; filename="a"', encoded("PNG"))] * 2),
            "a form must be one file, got 'Too many files.",
        ),
        (FORM, encoded("PNG"), "a form must be one file, got 'Invalid multipart data.'"),
        ("multipart/form-data", form(), "a form must be one file, got 'Missing boundary in multipart.'"),
    ],
)
def test_a_form_that_is_not_one_file_is_refused(client, kind, content, reason):
    answer = client.post("/restore", content=content, headers={"Content-Type": kind})
    assert detail(answer, 422).startswith(reason)


def test_a_body_over_the_limit_is_refused_whether_it_is_declared_or_not(client):
    rule = "a body must be at most 200000 bytes"
    assert detail(client.post("/restore", content=bytes(200_001)), 413) == f"{rule}, got 200001; send a smaller file"
    chunks = (bytes(50_000) for _ in range(5))
    assert detail(client.post("/restore", content=chunks), 413) == f"{rule}, got more; send a smaller file"


def test_a_body_at_the_limit_is_read(client):
    assert "must be a picture" in detail(client.post("/restore", content=bytes(200_000)), 422)


@pytest.mark.parametrize("length", ["-1", "1e9", "", " ", "+5", "0x10", "9" * 5000, "²", "12abc"])
def test_an_odd_content_length_is_no_reason_to_fail(client, length):
    # Servers refuse these; should one hand them on, what arrives is counted.
    answer = client.post("/restore", content=encoded("PNG"), headers={"Content-Length": length.encode()})
    assert answer.status_code in (200, 413)


@pytest.mark.parametrize(
    "kind", [b"\xff\xfe", b"", b"image/png; charset=\x80", b"multipart/form-data;;;=", b"a" * 9000]
)
def test_an_odd_content_type_is_no_reason_to_fail(client, kind):
    answer = client.post("/restore", content=encoded("PNG"), headers={"Content-Type": kind})
    assert answer.status_code in (200, 422)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_giant_picture_is_refused_by_its_header(client, monkeypatch):
    giant = giant_jpeg()
    assert len(giant) < 1300
    monkeypatch.setattr(Image.Image, "load", lambda *_: pytest.fail("the picture was decoded"))
    reason = "`image` must have at most 2000 pixels, got 10000 x 10000; make it smaller"
    assert detail(client.post("/restore", content=giant), 413) == reason


def test_frames_count_as_pixels(client):
    frames = [photograph((40, 24), seed=seed) for seed in (1, 2, 3)]
    small, large = (encoded("PNG", save_all=True, append_images=frames[:count]) for count in (1, 3))
    assert opened(client.post("/restore", content=small)).n_frames == 2
    reason = detail(client.post("/restore", content=large), 413)
    assert reason == "`image` must have at most 2000 pixels, got 40 x 24 x 4 frames; make it smaller"


def test_a_tiff_file_is_measured_by_its_picture_and_not_by_its_thumbnail(client):
    content = BytesIO()
    with tifffile.TiffWriter(content) as file:
        file.write(np.zeros((8, 8, 3), np.uint8), photometric="rgb", subfiletype=1)
        file.write(np.zeros((100, 100, 3), np.uint8), photometric="rgb")
    reason = detail(client.post("/restore", content=content.getvalue()), 413)
    assert reason == "`image` must have at most 2000 pixels, got 100 x 100; make it smaller"


def test_a_format_that_cannot_hold_the_picture_is_refused(client):
    content = encoded("PNG", mode="RGBA")
    assert "must hold transparency" in detail(client.post("/restore?format=jpeg", content=content), 422)


def test_depth_grey_and_metadata_survive(client):
    grey = Image.fromarray(np.random.default_rng(0).integers(0, 2**16, (24, 40), np.uint16))
    content = BytesIO()
    grey.save(content, "PNG", dpi=(300, 300))
    restored = opened(client.post("/restore?strength=0", content=content.getvalue()))
    np.testing.assert_array_equal(restored, grey)
    assert restored.info["dpi"] == pytest.approx((300, 300), abs=0.1)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("name", GIANTS)
def test_giants_of_every_format_are_refused(client, name):
    answer = client.post("/restore", content=giant_file(name))
    if name == "rows bomb PNG":  # decodes what its header declares, and no more
        assert answer.status_code == 200
    else:
        assert answer.status_code in (413, 422), answer.content


def test_an_unknown_address_or_method_is_refused(client):
    assert detail(client.post("/nowhere", content=b"a"), 404) == "Not Found"
    assert detail(client.get("/restore"), 405) == "Method Not Allowed"


# Faults


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (ValueError("`memory_budget` must suffice for\n tiles"), 422, "`memory_budget` must suffice for tiles"),
        (FloatingPointError("not finite"), 422, "not finite"),
        (OSError(), 422, "OSError"),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried 2 TiB."),
            413,
            "a picture must fit into the server's memory",
        ),
        (RuntimeError("[enforce fail] can't allocate memory"), 413, "a picture must fit into the server's memory"),
        (RuntimeError("could not create a primitive"), 413, "a picture must fit into the server's memory"),
        (MemoryError(), 413, "a picture must fit into the server's memory"),
        (Image.DecompressionBombError("bomb"), 413, "a picture must fit into the server's memory"),
        (RuntimeError("shapes differ"), 500, "the server failed at this request; its log says why"),
        (KeyError("haze"), 500, "the server failed at this request; its log says why"),
    ],
)
def test_an_error_fails_one_request_alone(client, monkeypatch, error, status, reason):
    def fail(*arguments):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(Restorer, "restore_picture", fail)
        assert detail(client.post("/restore", content=encoded("PNG")), status).startswith(reason)
    assert client.post("/restore", content=encoded("PNG")).status_code == 200


def test_a_strength_beyond_all_numbers_is_refused(client):
    answer = client.post("/restore?strength=1e308", content=encoded("PNG"))
    assert detail(answer, 422).startswith("the model returned values that are not finite")


# The command


def run_command(*arguments):
    """Run the command, and return what it says of a start that failed."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 2, result.output
    return result.stderr


def test_a_missing_model_is_said_in_one_line(tmp_path):
    reason = f"`--model` must be a folder with a model's config.json, got {tmp_path}; give --model DIR"
    assert run_command("--model", tmp_path) == f"error: {reason}\n"


def test_a_port_that_is_taken_is_said_in_one_line():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        said = run_command("--port", taken.getsockname()[1])
    assert "Address already in use" in said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize("option", ["--port=70000", "--places=0", "--max-megapixels=0", "--wait=0", "--memory=-1"])
def test_an_impossible_option_is_refused(option):
    assert f"Invalid value for '{option.partition('=')[0]}'" in run_command(option)


def test_the_extra_is_named_where_it_is_missing():
    code = "import sys; sys.modules['fastapi'] = None; import dpmambair.serve"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.splitlines()[-1] == (
        'ImportError: dpmambair.serve needs fastapi; run: pip install "dpmambair[serve]"'
    )


def test_help_does_without_torch():
    code = "import sys; sys.modules['torch'] = None; from dpmambair.serve import main; main(['--help'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, "--max-megapixels" in done.stdout) == (0, True), done.stderr
