"""Videos that the tests make: with strength 0 what comes out is what went in, up to the video codec."""

import dataclasses
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from skimage import data
from typer.testing import CliRunner

from dpmambair import video
from dpmambair.video import embed_video, restore_video
from modeling_dpmambair import DPMambaIRImageProcessor, Restorer, read_picture
from tests.modeling_dpmambair.models import small_model
from tests.restoring import files_below

TIMES = [0, 1, 2, 4, 7, 8]  # of a variable frame rate, in tenths of a second
ROTATED = bytes.fromhex("00000000 00010000 00000000 ffff0000 00000000 00000000 00000000 00000000 40000000")
UPRIGHT = bytes.fromhex("00010000 00000000 00000000 00000000 00010000 00000000 00000000 00000000 40000000")


@pytest.fixture(scope="module")
def restorer():
    torch.manual_seed(0)
    return Restorer(small_model(), DPMambaIRImageProcessor())


def scene(width=48, height=32):
    """Return a smooth, colourful picture, which 4:2:0 hardly changes."""
    coffee = data.coffee()[100 : 100 + 4 * height, 200 : 200 + 4 * width].astype(float)
    return coffee.reshape(height, 4, width, 4, 3).mean((1, 3)).round().astype(np.uint8)


def make_video(path, frames, pix_fmt="yuv420p", has_sound=True, **colours):
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "4"})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pix_fmt
        for name, value in colours.items():
            setattr(stream.codec_context, name, value)
        sound = container.add_stream("aac", rate=16000) if has_sound else None
        for time, levels in zip(TIMES, frames, strict=False):
            frame = av.VideoFrame.from_ndarray(levels, format="rgb24")
            frame = frame.reformat(format=pix_fmt, dst_colorspace=colours.get("colorspace"))
            frame.pts, frame.time_base = time, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if sound is not None:
            tone = np.sin(np.arange(8 * 1024) / 6).astype(np.float32)[None]
            for start in range(0, tone.shape[1], 1024):
                part = av.AudioFrame.from_ndarray(tone[:, start : start + 1024], format="fltp", layout="mono")
                part.sample_rate, part.pts = 16000, start
                container.mux(sound.encode(part))
            container.mux(sound.encode())
    return path


def read_frames(path):
    """Return times in seconds and RGB levels."""
    with av.open(path) as container:
        frames = list(container.decode(video=0))
        return [float(each.time) for each in frames], [each.to_ndarray(format="rgb24") for each in frames], frames


def read_sound(path):
    with av.open(path) as container:
        return [(float(each.pts * each.time_base), bytes(each)) for each in container.demux(audio=0) if each.size]


def test_strength_zero_gives_the_video_back_with_its_sound(restorer, tmp_path):
    given, target = make_video(tmp_path / "given.mp4", [scene()] * 6), tmp_path / "out" / "restored.mp4"
    steps = []
    restore_video(given, target, restorer, strength=0, progress=lambda: steps.append(1))
    times, frames, _ = read_frames(target)
    assert times == read_frames(given)[0] == [time / 10 for time in TIMES]
    assert len(steps) == 6
    for frame, expected in zip(frames, read_frames(given)[1], strict=True):
        assert np.abs(np.subtract(frame, expected, dtype=int)).mean() < 3
    assert read_sound(target) == read_sound(given) != []
    assert files_below(tmp_path) == ["given.mp4", "out/restored.mp4"]


def test_frames_are_restored_with_one_embedding(restorer, tmp_path, monkeypatch):
    given = make_video(tmp_path / "given.mkv", [scene(), scene()[::-1].copy()] * 3, has_sound=False)
    embeddings = []

    def note(self, picture, strength, degradation_embedding):
        embeddings.append(degradation_embedding)
        return dataclasses.replace(picture, pixels=1 - picture.pixels)

    monkeypatch.setattr(Restorer, "restore_picture", note)
    restore_video(given, tmp_path / "restored.mkv", restorer)
    assert len(embeddings) == 6
    assert all(each is embeddings[0] for each in embeddings)
    for found, degraded in zip(read_frames(tmp_path / "restored.mkv")[1], read_frames(given)[1], strict=True):
        assert np.abs(255 - degraded.astype(int) - found).mean() < 5


def test_embedding_is_the_mean_of_key_frames_from_all_over_the_video(restorer, tmp_path, monkeypatch):
    frames = [np.full((32, 48, 3), 40 * each, np.uint8) for each in range(6)]
    given = make_video(tmp_path / "given.mp4", frames, has_sound=False, gop_size=1)
    each = [restorer.embed(read_picture(levels)) for levels in read_frames(given)[1]]
    torch.testing.assert_close(embed_video(given, restorer), torch.stack(each).mean(0), rtol=0, atol=1e-5)
    embedded = []
    embed = Restorer.embed
    monkeypatch.setattr(Restorer, "embed", lambda *given: embedded.append(1) or embed(*given))
    monkeypatch.setattr(video, "SAMPLES", 2)  # at 0 and after half of 0.9 seconds
    expected = (each[0] + each[TIMES.index(7)]) / 2
    torch.testing.assert_close(embed_video(given, restorer), expected, rtol=0, atol=1e-5)
    assert len(embedded) == 2
    one_key = make_video(tmp_path / "one.mp4", frames, has_sound=False)
    torch.testing.assert_close(embed_video(one_key, restorer), each[0], rtol=0, atol=1e-2)


@pytest.mark.parametrize("colorspace", [None, 1, 5])  # not said, BT.709, BT.601
def test_colour_space_stays(restorer, tmp_path, colorspace):
    colours = {} if colorspace is None else {"colorspace": colorspace, "color_primaries": 1, "color_range": 1}
    given = make_video(tmp_path / "given.mp4", [scene()] * 3, "yuv444p", has_sound=False, **colours)
    restore_video(given, tmp_path / "restored.mp4", restorer, strength=0)
    _, frames, raw = read_frames(tmp_path / "restored.mp4")
    assert raw[0].colorspace == read_frames(given)[2][0].colorspace == (colorspace or 2)
    assert np.abs(np.subtract(frames[0], scene(), dtype=int).mean((0, 1))).max() < 3


def test_ten_bits_stay_ten(restorer, tmp_path):
    given = make_video(tmp_path / "given.mp4", [scene()] * 3, "yuv420p10le", has_sound=False)
    restore_video(given, tmp_path / "restored.mp4", restorer, strength=0)
    assert read_frames(tmp_path / "restored.mp4")[2][0].format.name == "yuv420p10le"


def test_odd_sizes_are_kept(restorer, tmp_path):
    given = make_video(tmp_path / "given.mp4", [scene(47, 31)] * 2, "yuv444p", has_sound=False)
    restore_video(given, tmp_path / "restored.mp4", restorer, strength=0)
    assert read_frames(tmp_path / "restored.mp4")[1][0].shape == (31, 47, 3)


def test_rotation_of_a_phone_is_applied(restorer, tmp_path):
    given = make_video(tmp_path / "given.mp4", [scene()] * 2, has_sound=False)
    content = given.read_bytes()
    place = content.index(UPRIGHT, content.index(b"tkhd"))
    given.write_bytes(content[:place] + ROTATED + content[place + 36 :])  # by 90 degrees clockwise
    restore_video(given, tmp_path / "restored.mp4", restorer, strength=0)
    _, frames, raw = read_frames(tmp_path / "restored.mp4")
    assert raw[0].rotation == 0
    assert np.abs(np.subtract(frames[0], np.rot90(scene(), -1), dtype=int)).mean() < 8


@pytest.mark.parametrize(("content", "message"), [
    (b"", "given.mp4: .+"), (b"Dear diary", "given.mp4: .+"), (b"#EXTM3U\n#EXTINF:1,\nother.ts\n", "given.mp4: .+"),
])  # fmt: skip
def test_what_is_no_video_is_an_error_in_one_line(restorer, tmp_path, content, message):
    (tmp_path / "given.mp4").write_bytes(content)
    with pytest.raises(OSError, match=message) as caught:
        restore_video(tmp_path / "given.mp4", tmp_path / "restored.mp4", restorer)
    assert len(str(caught.value).splitlines()) == 1
    assert files_below(tmp_path) == ["given.mp4"]


def test_playlist_reads_no_other_file(restorer, tmp_path):
    make_video(tmp_path / "other.ts", [scene()] * 2, has_sound=False)
    other = (tmp_path / "other.ts").as_uri()
    (tmp_path / "given.mp4").write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{other}\n#EXT-X-ENDLIST\n")
    with pytest.raises(OSError, match="given.mp4: "):
        restore_video(tmp_path / "given.mp4", tmp_path / "restored.mp4", restorer)


def test_command_restores_and_does_not_overwrite(restorer, tmp_path, monkeypatch):
    restorer.model.save_pretrained(tmp_path / "model")
    restorer.processor.save_pretrained(tmp_path / "model")
    given = make_video(tmp_path / "given.mp4", [scene()] * 2)
    arguments = [str(given), "-o", str(tmp_path / "restored.mp4"), "--model", str(tmp_path / "model")]
    done = CliRunner().invoke(video.app, arguments)
    assert (done.exit_code, done.stdout) == (0, "")
    assert len(read_frames(tmp_path / "restored.mp4")[1]) == 2
    again = CliRunner().invoke(video.app, arguments)
    assert again.exit_code == 2
    assert "must be a new file" in again.stderr


def test_command_says_in_one_line_what_is_no_video(tmp_path):
    (tmp_path / "given.mp4").write_bytes(b"Dear diary")
    refused = CliRunner().invoke(video.app, [str(tmp_path / "given.mp4"), "-o", str(tmp_path / "restored.mp4")])
    assert refused.exit_code == 1
    (line,) = refused.stderr.splitlines()
    assert line.startswith(f"error: {tmp_path / 'given.mp4'}: ")
