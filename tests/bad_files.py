"""Files that are no videos, or not quite, and what is said of them."""

import os
import struct
from pathlib import Path

import av
import numpy as np
from av.container import OutputContainer
from av.stream import Disposition
from video_files import EVEN, FILES, TICKS, with_index_in_front, write_video


def latin_metadata(folder: Path) -> Path:
    """Its title is in no encoding that there is."""
    path = folder / "latin.mp4"
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "PLACEHOLDER"
        stream = container.add_stream("libx264", rate=24)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        container.mux(stream.encode(av.VideoFrame(32, 32, "yuv420p")))
        container.mux(stream.encode())
    content = path.read_bytes()
    assert content.count(b"PLACEHOLDER") == 1
    path.write_bytes(content.replace(b"PLACEHOLDER", b"\xff\xe9t\xe9 \x80\x81 st"))
    return path


def _mux_silence(container: OutputContainer, stream: av.AudioStream) -> None:
    frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), dtype=np.float32), format="fltp", layout="mono")
    frame.sample_rate = stream.rate
    container.mux(stream.encode(frame))
    container.mux(stream.encode())


def _sound(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        _mux_silence(container, stream)
    return path


def _oversized(folder: Path) -> Path:
    """A picture of 64 x 48 in a GIF that says to be 12,000 x 12,000."""
    path = FILES["gif"](folder)
    content = bytearray(path.read_bytes())
    content[6:10] = struct.pack("<HH", 12000, 12000)
    path.write_bytes(content)
    return path


def _without_index(folder: Path) -> Path:
    path = FILES["b_frames"](folder)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    return path


def _cut_before_the_first_frame(folder: Path) -> Path:
    path = with_index_in_front(FILES["b_frames"](folder))
    content = path.read_bytes()
    path.write_bytes(content[: content.index(b"mdat") + 4])
    return path


def _cover_alone(folder: Path) -> Path:
    """Sound with a picture for its cover."""
    path = folder / "cover.m4a"
    with av.open(str(path), "w", format="mp4") as container:
        sound = container.add_stream("aac", rate=44100)
        cover = container.add_stream("png", rate=1)
        cover.width, cover.height, cover.pix_fmt = 32, 32, "rgb24"
        cover.disposition = Disposition.attached_pic
        container.mux(cover.encode(av.VideoFrame(32, 32, "rgb24")))
        _mux_silence(container, sound)
    return path


def _unknown_codec(folder: Path) -> Path:
    path = FILES["b_frames"](folder)
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zzzz"))
    return path


def _endless(folder: Path) -> Path:
    """Two frames that are a day apart."""
    return write_video(folder / "endless.mp4", ticks=[0, 24 * 3600 * TICKS])


def written(folder: Path, content: bytes, name: str = "clip.mp4") -> Path:
    (folder / name).write_bytes(content)
    return folder / name


def _link(folder: Path) -> Path:
    (folder / "link.mp4").symlink_to(folder / "gone.mp4")
    return folder / "link.mp4"


def pipe(folder: Path) -> Path:
    os.mkfifo(folder / "pipe.mp4")
    return folder / "pipe.mp4"


def _raw(folder: Path) -> Path:
    return write_video(folder / "raw.h264", ticks=EVEN[:4])


NOISE = np.random.default_rng(0).integers(0, 256, 5000, dtype=np.uint8).tobytes()
PLAYLIST = b"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2.0,\nb_frames.ts\n#EXT-X-ENDLIST\n"

BAD_FILES = {
    "nothing": (lambda f: f / "gone.mp4", "does not exist"),
    "a folder": (lambda f: f, "is a folder, not a file"),
    "a broken link": (_link, r"is a link to '.*gone.mp4', which does not exist"),
    "no bytes": (lambda f: written(f, b""), r"is empty \(0 bytes\)"),
    "text": (lambda f: written(f, b"not a video\n"), "is text, not a video"),
    "a web page": (lambda f: written(f, b"<!doctype html><title>404</title>"), "is text, not a video"),
    "noise": (lambda f: written(f, NOISE), "cannot be read as a video: Invalid data"),
    "zeros": (lambda f: written(f, bytes(5000)), "cannot be read as a video: Invalid data"),
    "cut off, its index at the end": (_without_index, r"is an MP4 whose index \(moov\) is missing or damaged"),
    "cut off, its index in front": (_cut_before_the_first_frame, "a first frame that cannot be decoded|single frame"),
    "sound alone": (lambda f: _sound(f / "sound.mp4"), "has no video stream, only audio"),
    "a cover alone": (_cover_alone, "no video stream|cover"),
    "a codec that nobody knows": (_unknown_codec, "codec"),
    "a duration beyond the limits": (_endless, "longer than|seconds"),
    "a size beyond the limits": (_oversized, r"more than 35,389,440 pixels \(12000 x 12000\)"),
    "a playlist": (lambda f: written(f, PLAYLIST, "list.m3u8"), "is a list of other files|is text"),
    "a list to join": (lambda f: written(f, b"ffconcat version 1.0\nfile b_frames.mp4\n"), "list of other files|text"),
    "a raw stream": (_raw, "without timestamps"),
}
