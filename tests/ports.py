"""Ports for servers of tests."""

import random
import socket

SERVERS = range(20_000, 32_000)
"""Above those of Ray's workers, below those that systems give to who asks for any, as Ray's other processes do."""


def free_port() -> int:
    """That nobody listens at on loopback, and that nobody is given unasked."""
    while True:
        port = random.choice(SERVERS)
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return port
