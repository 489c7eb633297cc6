"""A stand-in for a captioning server on this machine, which answers as it is told."""

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = tuple[int, dict[str, str], str]
"""Status, headers, body."""


def said(text: str | None, **more: object) -> Answer:
    return 200, {}, json.dumps({"choices": [{"message": {"role": "assistant", "content": text, **more}}]})


class Stub:
    """Keeps what it is asked, and answers with what `answer` makes of it."""

    def __init__(self) -> None:
        self.questions: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.keys: list[str | None] = []
        self.answer: Callable[[dict[str, Any]], Answer | None] = lambda question: said("a clip")
        stub, lock = self, threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    stub.questions.append(question)
                    stub.paths.append(self.path)
                    stub.keys.append(self.headers["Authorization"])
                    answer = stub.answer(question)
                if answer is None:
                    return  # closes the connection
                status, headers, body = answer
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body.encode())))
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/v1"

    def in_turn(self, *answers: Answer | None) -> None:
        left = list(answers)
        self.answer = lambda question: left.pop(0)
