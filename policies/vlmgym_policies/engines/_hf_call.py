"""A call of `generate` and its prompts, as the thread that decodes sees them."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass

from vlmgym_policies.engine import Completion, Prompt, Sampling
from vlmgym_policies.engines._stream import News, Watch


class Call:
    """Gathers the completions of one call; its first failure is that of the call.

    future: what the caller waits for. is_over: nobody wants what is still missing; set by whoever knows. watch: told
    each token; None where nobody reads along.
    """

    def __init__(self, num_prompts: int, watch: Watch | None = None) -> None:
        self.watch = watch
        self.future: Future[list[Completion]] = Future()
        self.future.set_running_or_notify_cancel()  # from now on a caller who is gone cannot cancel it
        self.is_over = False
        self._num_prompts = num_prompts
        self._completions: dict[int, Completion] = {}

    def complete(self, index: int, completion: Completion) -> None:
        if self.watch is not None:
            last, num_read = [int(completion.token_ids[-1])], len(completion.prompt_token_ids)
            self.watch(News(index, last, num_read, completion.weights_version, completion))
        self._completions[index] = completion
        if len(self._completions) == self._num_prompts and not self.future.done():
            self.is_over = True
            self.future.set_result([self._completions[i] for i in range(self._num_prompts)])

    def fail(self, error: Exception) -> None:
        self.is_over = True
        if not self.future.done():
            self.future.set_exception(error)


@dataclass(frozen=True, slots=True)
class Request:
    """Prompt `index` of a call."""

    call: Call
    prompt: Prompt
    sampling: Sampling
    index: int
