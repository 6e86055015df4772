"""What a replica counts, for Ray's Prometheus endpoint: requests, seconds, tokens, responses being written."""

from __future__ import annotations

from ray.serve.metrics import Counter, Gauge, Histogram

_LATENCIES_S = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0]


class ServeMetrics:
    """Of one replica; Serve adds the names of application, deployment and replica."""

    def __init__(self) -> None:
        self._requests = Counter("vlmgym_serve_requests", "Requests by status.", ("status",))
        self._latency_s = Histogram(
            "vlmgym_serve_latency_s", "Seconds of a request, to the end of its stream.", _LATENCIES_S, ("status",)
        )
        self._first_token_s = Histogram(
            "vlmgym_serve_first_token_s", "Seconds to a stream's first piece.", _LATENCIES_S
        )
        self._prompt_tokens = Counter("vlmgym_serve_prompt_tokens", "Tokens read.")
        self._completion_tokens = Counter("vlmgym_serve_completion_tokens", "Tokens written.")
        self._batch = Gauge("vlmgym_serve_batch", "Responses being written.")
        self._num_writing = 0

    def began(self, num_choices: int) -> None:
        self._change_batch(num_choices)

    def ended(self, num_choices: int, num_prompt_tokens: int, num_completion_tokens: int) -> None:
        self._change_batch(-num_choices)
        if num_prompt_tokens:
            self._prompt_tokens.inc(num_prompt_tokens, {})
        if num_completion_tokens:
            self._completion_tokens.inc(num_completion_tokens, {})

    def first_token(self, seconds: float) -> None:
        self._first_token_s.observe(seconds, {})

    def answered(self, status: int, seconds: float) -> None:
        """status: 499 where the client was gone."""
        tags = {"status": str(status)}
        self._requests.inc(1, tags)
        self._latency_s.observe(seconds, tags)

    def _change_batch(self, num: int) -> None:
        self._num_writing += num
        self._batch.set(self._num_writing, {})
