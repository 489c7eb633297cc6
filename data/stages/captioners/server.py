"""Captions from a server that speaks OpenAI's protocol for chats with images (vLLM, SGLang, llama.cpp, OpenAI).

https://platform.openai.com/docs/api-reference/chat/create
"""

import base64
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from email.message import Message
from http.client import HTTPException
from io import BytesIO
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data.sources.captions import clean
from data.stages.captioners.contract import one_line
from data.stages.failure import ClipError
from data.stages.frames import ClipFrames
from video_dit.config import CaptionerConfig
from video_dit.errors import UserError

TIMEOUT = 300.0
"""Seconds without a byte from the server after which it is asked again."""

WAITS = (1.0, 2.0, 4.0, 8.0)
"""Seconds before each further try."""

LONGEST_WAIT = 60.0
"""Seconds, where the server says how long to wait."""

MAX_ANSWER_BYTES = 1 << 24
JPEG_QUALITY = 95


class ServerCaptioner:
    """A request for each clip, `batch_size` of them at a time.

    A request that the server is too busy for, fails at or does not answer is made again, five times in all. Then:

    - where there is no server, it stays too busy, or it refuses the model, the path or the key, the run cannot go on;
    - whatever else it says of a clip that is no caption costs this clip alone.

    Args:
        config: the [captioner] table. The environment's OPENAI_API_KEY is sent, if there is one.
        wait: sleeps for so many seconds.
    """

    def __init__(self, config: CaptionerConfig, wait: Callable[[float], None] = time.sleep) -> None:
        assert config.url is not None
        self._config = config
        self._url = f"{config.url.rstrip('/')}/chat/completions"
        self._wait = wait
        self._headers = {"Content-Type": "application/json"}
        key = os.environ.get("OPENAI_API_KEY", "").strip()
        if key:
            self._headers["Authorization"] = f"Bearer {key}"
        self._opener = urllib.request.build_opener(_NoRedirect)

    def caption(self, clips: list[ClipFrames]) -> list[str | ClipError]:
        """As `Captioner` says.

        Raises:
            UserError: the server cannot be used.
        """
        with ThreadPoolExecutor(self._config.batch_size) as pool:
            return list(pool.map(self._caption, clips))

    def _caption(self, clip: ClipFrames) -> str | ClipError:
        try:
            return _caption_in(self._ask(self._question(clip)))
        except ClipError as error:
            return error

    def _question(self, clip: ClipFrames) -> bytes:
        images = [{"type": "image_url", "image_url": {"url": _data_url(frame)}} for frame in clip.pixels]
        question = {
            "model": self._config.model,
            "messages": [{"role": "user", "content": [*images, {"type": "text", "text": self._config.prompt}]}],
            "max_tokens": self._config.max_new_tokens,
            "temperature": 0,
            "seed": 0,
        }
        return json.dumps(question).encode()

    def _ask(self, question: bytes) -> bytes:
        """
        Raises:
            ClipError: there is no answer to this question.
            UserError: there is none to any.
        """
        request = urllib.request.Request(self._url, question, self._headers, method="POST")
        for seconds in WAITS:
            answer = self._try(request)
            if isinstance(answer, bytes):
                return answer
            if not answer.may_pass:
                raise answer.error
            self._wait(max(seconds, answer.wait))
        answer = self._try(request)
        if isinstance(answer, bytes):
            return answer
        raise answer.error

    def _try(self, request: urllib.request.Request) -> "bytes | _Problem":
        try:
            with self._opener.open(request, timeout=TIMEOUT) as response:
                return bytes(response.read(MAX_ANSWER_BYTES))
        except urllib.error.HTTPError as error:
            with error:
                return self._refused(error)
        except TimeoutError:
            return _Problem(ClipError(f"{self._url} said nothing for {TIMEOUT:g} seconds"))
        except urllib.error.URLError as error:
            advice = "start the server or correct the address, and run the same command again"
            return _Problem(UserError(f"captioner.url: {self._url} cannot be reached ({error.reason}): {advice}"))
        except (OSError, HTTPException) as error:
            return _Problem(ClipError(f"{self._url} broke off ({error})"))

    def _refused(self, error: urllib.error.HTTPError) -> "_Problem":
        """What an HTTP status means: https://www.rfc-editor.org/rfc/rfc9110#name-status-codes"""
        said = f"HTTP {error.code}, {_message(error)}"
        if error.code in (429, 502, 503, 504):
            advice = "lower captioner.batch_size, the requests at a time, or run the same command again later"
            busy = UserError(f"captioner.url: {self._url} stays too busy ({said}): {advice}")
            return _Problem(busy, wait=_retry_after(error.headers))
        if error.code == 408 or error.code >= 500:
            return _Problem(ClipError(f"{self._url} failed ({said})"))
        if error.code in (401, 403):
            advice = "set OPENAI_API_KEY to a key that it takes"
        elif error.code in (404, 405):
            advice = f"see where its /chat/completions is, and whether it has captioner.model = {self._config.model}"
        elif error.code < 400:
            advice = f"give the address that it points to, {error.headers.get('Location')}"
        else:
            return _Problem(ClipError(f"{self._url} refused the clip ({said})"), may_pass=False)
        return _Problem(UserError(f"captioner.url: {self._url} refuses ({said}): {advice}"), may_pass=False)


class _Problem(NamedTuple):
    """Why there is no answer, whether there may be one later, and the seconds that the server asks to wait."""

    error: UserError
    may_pass: bool = True
    wait: float = 0.0


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """The question, the pictures and the key are for the server that is named."""

    def redirect_request(self, *_: object) -> None:
        return None


def _retry_after(headers: Message) -> float:
    """Seconds; a date counts as nothing."""
    said = headers.get("Retry-After", "")
    return min(float(said), LONGEST_WAIT) if said.isdecimal() else 0.0


def _message(error: urllib.error.HTTPError) -> str:
    """The server's words, at most a line of them."""
    body = error.read(MAX_ANSWER_BYTES).decode(errors="replace")
    try:
        said = json.loads(body)["error"]["message"]
    except (ValueError, TypeError, LookupError, RecursionError):
        said = body
    return clean(str(said))[0][:200] or str(error.reason)


def _caption_in(answer: bytes) -> str:
    """
    Raises:
        ClipError: there is none in it.
    """
    try:
        message = json.loads(answer)["choices"][0]["message"]
        content, refusal = message["content"], message.get("refusal")
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        start = clean(answer[:100].decode(errors="replace"))[0]
        raise ClipError(f"the server's answer is no chat completion, it begins with {start!r}") from None
    if not isinstance(content, str):
        raise ClipError(f"the server gave no caption, it said {clean(str(refusal))[0][:200]!r}")
    return one_line(content)


def _data_url(frame: NDArray[np.uint8]) -> str:
    file = BytesIO()
    Image.fromarray(frame).save(file, "JPEG", quality=JPEG_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
