"""Restore a video: `python -m dpmambair.video INPUT --output OUTPUT`.

Frame by frame, by `Restorer.restore_picture`, all with one degradation embedding, so that what does not change does
not flicker. Depth, timing and colour space stay, rotation is applied, and sound is copied, packet by packet. The video
is encoded anew, in H.264 of high quality. Subtitles, chapters and further video streams are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer
from tqdm import tqdm

from dpmambair.files import replacing
from dpmambair.shipped import SHIPPED

try:
    import av
except ImportError as error:
    raise ImportError('videos need PyAV: pip install -e ".[video]"') from error

if TYPE_CHECKING:
    import torch

    from modeling_dpmambair import Picture, Restorer

CODEC = "libx264"
# Of H.264, from 0 (lossless) to 51: nobody sees the difference, and files stay smaller than twice a camera's.
QUALITY = {"crf": "16"}
# How many frames, spread over the video, its embedding is read from.
SAMPLES = 16
# A playlist that calls itself a video may not name other files or addresses.
NO_OTHER_FILES = {"protocol_whitelist": "none"}

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def restore_video(
    source: Path, target: Path, restorer: Restorer, strength: float = 1, progress: Callable[[], None] | None = None
) -> None:
    """Restore a video.

    Args:
        source: file that FFmpeg reads.
        target: file to write, whole or not at all; its suffix names the container.
        restorer: restores each frame.
        strength: factor on the correction, as in a restorer's call.
        progress: called after each frame.

    Raises:
        OSError: the video cannot be read, or not be written into this container.
    """
    with _one_line_errors(source), replacing(target) as temporary:
        options = {"strength": strength, "degradation_embedding": embed_video(source, restorer)}
        with _open(source) as (given, stream), av.open(temporary, "w") as written:
            # Before anything is written, the container must know all of its streams.
            output = _add_stream(written, stream, _read_first(source))
            sounds = {each: written.add_stream_from_template(each) for each in given.streams.audio}
            for packet in given.demux(stream, *sounds):
                if packet.stream in sounds and packet.dts is not None:
                    packet.stream = sounds[packet.stream]
                    written.mux(packet)
                for frame in packet.decode() if packet.stream is stream else ():
                    restored = restorer.restore_picture(_to_picture(frame), **options)
                    written.mux(output.encode(_to_frame(restored, frame, output)))
                    if progress is not None:
                        progress()
            written.mux(output.encode())


def embed_video(source: Path, restorer: Restorer) -> torch.Tensor | None:
    """Return the mean embedding, (1, E), of key frames spread over a video; None if the model has no extractor."""
    found: list[torch.Tensor] = []
    with _open(source) as (given, stream):
        stream.codec_context.skip_frame = "NONKEY"
        step = (given.duration or 0) / av.time_base / SAMPLES
        for frame in given.decode(stream):
            if len(found) == SAMPLES:
                break
            if (frame.time or 0) < len(found) * step:
                continue
            if (embedding := restorer.embed(_to_picture(frame))) is None:
                break
            found.append(embedding)
    return sum(found) / len(found) if found else None


@contextmanager
def _open(source: Path) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    # By an open file, because FFmpeg takes paths for addresses of many kinds.
    with open(source, "rb") as file, av.open(file, options=NO_OTHER_FILES) as container:
        if not container.streams.video:
            raise OSError("the file holds no video")
        yield container, container.streams.video[0]


def _read_first(source: Path) -> av.VideoFrame:
    with _open(source) as (given, stream):
        for frame in given.decode(stream):
            return frame
    raise OSError("no frame can be decoded")


@contextmanager
def _one_line_errors(source: Path) -> Iterator[None]:
    try:
        yield
    except (av.FFmpegError, OSError) as error:
        raise OSError(f"{source}: {' '.join(str(error).split())}") from error


def _is_deep(frame: av.VideoFrame) -> bool:
    return frame.format.components[0].bits > 8


def _to_picture(frame: av.VideoFrame) -> Picture:
    from modeling_dpmambair import read_picture

    levels = frame.to_ndarray(format="rgb48le" if _is_deep(frame) else "rgb24")
    upright = np.rot90(levels, round(frame.rotation / 90))
    return read_picture(upright / np.float32(65535) if _is_deep(frame) else upright)


def _to_frame(picture: Picture, given: av.VideoFrame, output: av.VideoStream) -> av.VideoFrame:
    levels = picture.levels(picture.bit_depth)
    frame = av.VideoFrame.from_ndarray(levels, format="rgb48le" if picture.bit_depth == 16 else "rgb24")
    frame = frame.reformat(format=output.pix_fmt, dst_colorspace=given.colorspace, dst_color_range=given.color_range)
    frame.pts, frame.time_base = given.pts, given.time_base
    return frame


def _add_stream(written: av.container.OutputContainer, stream: av.VideoStream, frame: av.VideoFrame) -> av.VideoStream:
    """Add a stream for frames like this one."""
    output = written.add_stream(CODEC, rate=stream.average_rate, options=QUALITY)
    output.width, output.height = _to_picture(frame).size
    is_even = not any(side % 2 for side in (output.width, output.height))
    output.pix_fmt = ("yuv420p" if is_even else "yuv444p") + ("10le" if _is_deep(frame) else "")
    output.codec_context.time_base = stream.time_base
    for name in ("colorspace", "color_range", "color_primaries", "color_trc"):
        setattr(output.codec_context, name, getattr(frame, name))
    return output


@app.command()
def main(
    source: Annotated[Path, typer.Argument(metavar="INPUT", exists=True, dir_okay=False, help="Video to restore.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="OUT", help="New file, as .mp4, .mkv or .mov.")],
    model: Annotated[Path, typer.Option(metavar="DIR", help="Folder of a trained model.")] = SHIPPED,
    strength: Annotated[float, typer.Option(min=0, help="0 leaves the video as it is, 1 restores it.")] = 1,
    dtype: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
) -> None:
    """Restore a degraded video; its sound is copied."""
    from modeling_dpmambair import Restorer

    if output.exists():
        raise typer.BadParameter(f"`--output` must be a new file, got {output}; choose another name")
    try:
        with _one_line_errors(source), _open(source) as (_, stream):
            count = stream.frames or None
        restorer = Restorer.from_pretrained(model, device, dtype)
        with tqdm(total=count, unit="frame", disable=None) as bar:
            restore_video(source, output, restorer, strength, bar.update)
    except (OSError, ValueError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error


if __name__ == "__main__":
    app()
