"""Fixtures of the tests of data."""

import threading
from collections.abc import Iterator

import pytest
from caption_server import Stub


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stub]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    stub = Stub()
    thread = threading.Thread(target=stub.http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield stub
    stub.http.shutdown()
    stub.http.server_close()
    thread.join()
