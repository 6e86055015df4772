"""A scripted endpoint, and the server of live play before it."""

from collections.abc import Iterator
from threading import Thread

import pytest
from scripted_endpoint import ScriptedEndpoint

from vlmgym.viewer.live.endpoint import read_endpoint
from vlmgym.viewer.live.games import LiveGames
from vlmgym.viewer.live.page import build_live_page
from vlmgym.viewer.live.server import LiveServer


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedEndpoint]:
    monkeypatch.setenv("OPENAI_API_KEY", "a-secret-key")
    with ScriptedEndpoint() as server:
        Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.go.set()
        server.shutdown()


@pytest.fixture
def live(endpoint: ScriptedEndpoint) -> Iterator[LiveServer]:
    """Begins with the maze of seed 3 at `tiny`."""
    asked = read_endpoint(endpoint.url, temperature=0.5, max_tokens=99, timeout_s=10.0)
    with LiveServer(build_live_page("maze", "tiny", 3), asked, LiveGames("picture"), port=0) as server:
        Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()
