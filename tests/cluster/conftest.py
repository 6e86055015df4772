"""Real Ray nodes, as `ray start` makes them, whose head asks for a token and runs jobs from the repository's root."""

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from ports import free_port

ROOT = Path(__file__).resolve().parents[2]
START_S = 240.0
MAX_TRIES = 3
Node = subprocess.Popen[bytes]


class Cluster:
    """Nodes of two CPUs on this machine.

    client: the environment of someone who may submit. stranger: of someone without the token. home: of results.
    gcs: the address that nodes join.
    """

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="vg-", dir="/tmp"))  # Ray's sockets do not fit into longer paths
        self.home = self.folder / "home"
        self._dashboard, self._agent = free_port(), free_port()
        self.gcs = f"127.0.0.1:{free_port()}"
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "PYTHON"))}
        self.stranger = {
            **kept,
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), kept.get("PATH", "")]),
            "HOME": str(self.folder),
            "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{self._dashboard}",
        }
        self._token = secrets.token_hex(16)
        self.client = {**self.stranger, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self._token}
        self._nodes: list[Node] = []

    def start_head(self, *options: str) -> Node:
        """Returns when its dashboard answers and knows its node, and the agent is there that starts jobs."""
        temporary = Path(tempfile.mkdtemp(prefix="r-", dir=self.folder))
        head = self._start(
            "--head",
            f"--port={self.gcs.rpartition(':')[2]}",
            "--dashboard-host=127.0.0.1",
            f"--dashboard-port={self._dashboard}",
            f"--dashboard-agent-listen-port={self._agent}",
            f"--temp-dir={temporary}",
            *options,
        )
        deadline = time.monotonic() + START_S
        while not self._ask(self._agent, "/api/local_raylet_healthz"):
            assert head.poll() is None and time.monotonic() < deadline, "no agent"
            time.sleep(0.3)
        return head

    def add_node(self, *options: str) -> Node:
        """Returns when the head knows it: two that start at once on one machine take each other's sockets."""
        return self._start(f"--address={self.gcs}", "--dashboard-agent-listen-port=0", *options)

    def kill(self, node: Node) -> None:
        """As a machine that loses its power: all processes of a node are in one group."""
        self._nodes.remove(node)
        with suppress(ProcessLookupError):  # all of it ended by itself
            os.killpg(node.pid, signal.SIGKILL)
        node.wait()

    def close(self) -> None:
        for node in reversed(list(self._nodes)):
            self.kill(node)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _start(self, *options: str) -> Node:
        """Ray gives a node 30 s to start, which a busy machine may not make; so there are some tries."""
        log = self.folder / f"node-{len(self._nodes)}.log"
        for _ in range(MAX_TRIES):
            node = self._launch(log, *options)
            deadline = time.monotonic() + START_S
            while node.poll() is None:
                if self._num_nodes() >= len(self._nodes):
                    return node
                assert time.monotonic() < deadline, log.read_text()[-2000:]
                time.sleep(0.3)
            self.kill(node)
        raise AssertionError(log.read_text()[-2000:])

    def _launch(self, log: Path, *options: str) -> Node:
        node = subprocess.Popen(
            [
                *("ray", "start", "--block", "--disable-usage-stats", "--num-cpus=2"),
                *(f"--object-store-memory={128 * 2**20}", *options),
            ],
            cwd=ROOT,
            env={**self.client, "VLMGYM_HOME": str(self.home)},
            stdout=log.open("w"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._nodes.append(node)
        return node

    def _num_nodes(self) -> int:
        """That are alive; none before the dashboard answers."""
        told = self._ask(self._dashboard, "/nodes?view=summary")
        nodes = json.loads(told)["data"]["summary"] if told else []
        return sum(node["raylet"].get("state") == "ALIVE" for node in nodes)

    def _ask(self, port: int, path: str) -> bytes | None:
        """None where nobody answers."""
        headers = {"Authorization": f"Bearer {self._token}"}
        request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=30) as reply:
                return reply.read()
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return None


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """Of a test that ends nodes: none yet."""
    made = Cluster()
    yield made
    made.close()


@pytest.fixture(scope="module")
def head() -> Iterator[Cluster]:
    """A cluster of a head alone."""
    made = Cluster()
    try:
        made.start_head()
        yield made
    finally:
        made.close()


@pytest.fixture
def wait_for() -> Callable[..., None]:
    """Waits for a condition, as long as a process that it depends on lives."""

    def wait(
        condition: Callable[[], bool], process: subprocess.Popen[str], log: Path, timeout_s: float = 400.0
    ) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert process.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(0.2)

    return wait
