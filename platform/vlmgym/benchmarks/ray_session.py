"""Which Ray a benchmark runs on, and whether it is ended afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from vlmgym.cluster import start_ray


@contextmanager
def ray_session(num_cpus: int) -> Iterator[None]:
    """A Ray of `num_cpus` that is ended again, unless one was connected before: then that one."""
    import ray

    connected = ray.is_initialized()
    start_ray(num_cpus)
    try:
        yield
    finally:
        if not connected:
            ray.shutdown()
