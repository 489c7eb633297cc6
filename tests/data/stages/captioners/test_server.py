"""Captions from a server: a stub on this machine, which answers as it is told."""

import base64
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from typing import Any

import numpy as np
import pytest
import torch
from caption_server import Answer, Stub, said
from PIL import Image

from data.stages.captioners import build_captioner, server
from data.stages.captioners.server import ServerCaptioner
from data.stages.failure import ClipError
from data.stages.frames import ClipFrames
from video_dit.config import CaptionerConfig, load_config
from video_dit.errors import UserError


def config(url: str, **keys: object) -> CaptionerConfig:
    table = {"name": "server", "model": "seer", "url": url, "prompt": "What is this?", "max_new_tokens": 40, **keys}
    return CaptionerConfig(**table)  # type: ignore[arg-type]


def caption(stub: Stub, clips: list[ClipFrames], **keys: object) -> tuple[list[str | ClipError], list[float]]:
    """The captions, and how long was waited."""
    waits: list[float] = []
    return ServerCaptioner(config(stub.url, **keys), waits.append).caption(clips), waits


def grey(*levels: int) -> ClipFrames:
    """A frame of each level."""
    return ClipFrames(np.stack([np.full((12, 16, 3), level, dtype=np.uint8) for level in levels]), 1.0)


def levels_in(question: dict[str, Any]) -> list[int]:
    """Of the frames that were sent."""
    levels = []
    for part in question["messages"][0]["content"][:-1]:
        head, _, data = part["image_url"]["url"].partition(",")
        assert (part["type"], head) == ("image_url", "data:image/jpeg;base64")
        image = Image.open(BytesIO(base64.b64decode(data)))
        assert (image.format, image.size) == ("JPEG", (16, 12))
        levels.append(round(np.asarray(image).mean()))
    return levels


def test_the_server_gets_the_model_the_frames_and_the_prompt(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret\n")
    captioner = build_captioner(config(f"{stub.url}/"), torch.device("cpu"))
    stub.answer = lambda question: said("  A grey\nfield.\x00 ")
    assert captioner.caption([grey(10, 100, 200)]) == ["A grey field."]
    (question,) = stub.questions
    assert stub.paths == ["/v1/chat/completions"]
    assert stub.keys == ["Bearer secret"]
    assert (question["model"], question["max_tokens"], question["temperature"]) == ("seer", 40, 0)
    (message,) = question["messages"]
    assert message["role"] == "user"
    assert message["content"][-1] == {"type": "text", "text": "What is this?"}
    assert levels_in(question) == [10, 100, 200]


def test_captions_come_in_the_order_of_the_clips_and_no_key_is_made_up(stub: Stub) -> None:
    stub.answer = lambda question: said(f"level {levels_in(question)[0]}")
    clips = [grey(level) for level in range(0, 240, 20)]
    captions, _ = caption(stub, clips, batch_size=4)
    assert captions == [f"level {level}" for level in range(0, 240, 20)]
    assert stub.keys == [None] * 12


def test_so_many_requests_are_made_at_a_time_as_the_config_says(stub: Stub) -> None:
    meeting = threading.Barrier(3, timeout=30)
    captioner = ServerCaptioner(config(stub.url, batch_size=3))
    captioner._try = lambda request: said(str(meeting.wait()))[2].encode()  # type: ignore[method-assign]
    assert sorted(captioner.caption([grey(1)] * 3)) == ["0", "1", "2"]


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_it_is_asked_again_after_growing_waits(status: int, stub: Stub) -> None:
    stub.in_turn((status, {}, "busy"), (status, {}, "busy"), said("a clip"))
    assert caption(stub, [grey(1)]) == (["a clip"], [1, 2])
    assert stub.questions[0] == stub.questions[2]


def test_a_broken_connection_is_made_again(stub: Stub) -> None:
    stub.in_turn(None, said("a clip"))
    assert caption(stub, [grey(1)]) == (["a clip"], [1])


def test_the_server_may_say_how_long_to_wait_within_bounds(stub: Stub) -> None:
    wants = [{"Retry-After": value} for value in ("7", "100000", "Wed, 21 Oct 2026 07:28:00 GMT")]
    stub.in_turn(*((429, headers, "") for headers in wants), said("a clip"))
    assert caption(stub, [grey(1)]) == (["a clip"], [7, 60, 4])


@pytest.mark.parametrize(
    ("answer", "tries", "reason"),
    [
        ((200, {}, "<html>hello"), 1, "answer is no chat completion, it begins with '<html>hello'"),
        ((200, {}, '{"choices": []}'), 1, "answer is no chat completion"),
        ((200, {}, '{"choices": [{"message": "hi"}]}'), 1, "answer is no chat completion"),
        ((200, {}, "[" * 100_000), 1, "answer is no chat completion"),
        (said(""), 1, "the captioner said nothing"),
        (said(None, refusal="I cannot look at this"), 1, "gave no caption, it said 'I cannot look at this'"),
        ((400, {}, '{"error": {"message": "too many\\nimages"}}'), 1, "refused the clip (HTTP 400, too many images)"),
        ((413, {}, ""), 1, "refused the clip (HTTP 413, "),
        ((500, {}, '{"error": "out of memory"}'), 5, 'failed (HTTP 500, {"error": "out of memory"})'),
        (None, 5, "broke off (Remote end closed connection"),
    ],
)
def test_what_it_says_of_one_clip_costs_this_clip(answer: Answer | None, tries: int, reason: str, stub: Stub) -> None:
    stub.answer = lambda question: answer if levels_in(question) == [50] else said("a clip")
    captions, waits = caption(stub, [grey(1), grey(50), grey(2)])
    assert [captions[0], captions[2]] == ["a clip", "a clip"]
    assert isinstance(captions[1], ClipError)
    assert reason in str(captions[1])
    assert len(waits) == tries - 1
    assert len(stub.questions) == 2 + tries


@pytest.mark.parametrize(
    ("answer", "tries", "message"),
    [
        ((401, {}, '{"error": {"message": "no key"}}'), 1, r"refuses \(HTTP 401, no key\): set OPENAI_API_KEY"),
        ((403, {}, ""), 1, r"refuses \(HTTP 403, .*set OPENAI_API_KEY"),
        ((404, {}, "no such model"), 1, r"HTTP 404, no such model\): see .* whether it has captioner.model = seer"),
        ((302, {"Location": "http://elsewhere/"}, ""), 1, r"HTTP 302, .* points to, http://elsewhere/"),
        ((429, {}, "slow down"), 5, r"stays too busy \(HTTP 429, slow down\): lower captioner.batch_size"),
        ((503, {}, ""), 5, r"stays too busy \(HTTP 503, "),
    ],
)
def test_a_server_that_cannot_be_used_ends_the_run(answer: Answer, tries: int, message: str, stub: Stub) -> None:
    stub.answer = lambda question: answer
    with pytest.raises(UserError, match=rf"captioner.url: {stub.url}/chat/completions .*{message}") as error:
        caption(stub, [grey(1)])
    assert not isinstance(error.value, ClipError)
    assert len(stub.questions) == tries


def test_where_nothing_listens_the_run_ends(stub: Stub) -> None:
    waits: list[float] = []
    free = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    free.server_close()
    url = f"http://127.0.0.1:{free.server_address[1]}/v1"
    with pytest.raises(
        UserError, match=rf"captioner.url: {url}/chat/.* cannot be reached \(.*refused\): start"
    ) as error:
        ServerCaptioner(config(url), waits.append).caption([grey(1)])
    assert not isinstance(error.value, ClipError)
    assert waits == [1, 2, 4, 8]


def test_silence_costs_the_clip(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "TIMEOUT", 0.02)
    done = threading.Event()
    stub.answer = lambda question: done.wait(30) and None
    (silent,), waits = caption(stub, [grey(1)])
    done.set()
    assert isinstance(silent, ClipError)
    assert "said nothing for 0.02 seconds" in str(silent)
    assert waits == [1, 2, 4, 8]


@pytest.mark.parametrize(
    "url", ["localhost:8000/v1", "ftp://host/v1", "http://host:port/v1", "http://me:pw@host", "http://"]
)
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(UserError, match=r"captioner.url is .*: write it as http://HOST:PORT/v1"):
        load_config(None, ["captioner.name=server", "captioner.model=seer", f"captioner.url={url}"])
