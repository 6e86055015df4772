"""Which groups a batch is made of: keeps the env runners busy, bounds how old weights may be, replaces what is lost."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from vlmgym.grpo.runner import DroppedGroup, PlayedGroup, Sample
from vlmgym.grpo.tasks import Task, Tasks

POLL_S = 0.1
RESTART_POLL_S = 0.5
LOCAL_RUNNER = 0
MAX_LOSSES = 3
"""A group that was under way at so many losses of engines or runners may be what they died of: it is dropped."""


class Pending(NamedTuple):
    """A group that was asked for: from which runner, which weights version was the newest then, and what it plays."""

    runner: int
    version: int
    task: Task


class Ready(NamedTuple):
    """A group that was played. version: the newest when it was asked for, or an older one that it was answered with."""

    version: int
    group: PlayedGroup


class Interrupted(Exception):
    """An iteration was given up on request, between two updates of the weights."""


class CollectorCounts(NamedTuple):
    """Groups since the start of the run: requested = delivered + dropped + stale + uninformative + unfinished.

    redone: how often a group was asked for again, since its engine or runner was lost. It is the same group still.
    """

    requested: int = 0
    delivered: int = 0
    dropped: int = 0
    stale: int = 0
    uninformative: int = 0
    unfinished: int = 0
    redone: int = 0


class GroupCollector:
    """Asks runners for groups and hands them out in batches.

    At most 1 + `max_weights_lag` batches of groups are asked for and not handed out yet: this bounds memory, and how
    many updates can pass between asking for a group and learning from it. With lag 0 a batch is asked for, waited for
    and handed out: the synchronous algorithm.

    on_loss() is called after faults, to bring runners and engines back. stop: ends the wait for a batch.
    """

    def __init__(self, config: Any, runners: Any, on_loss: Callable[[], None]) -> None:
        self._config = config
        self._runners = runners
        self._on_loss = on_loss
        self._pending: dict[int, Pending] = {}
        self._ready: list[Ready] = []
        self._again: dict[int, Task] = {}
        self._losses: Counter[int] = Counter()
        self._next_group_id = 0
        self._counts: Counter[str] = Counter()
        self.tasks = Tasks(config)
        self.metrics: list[dict[str, Any]] = []
        self.stop = threading.Event()

    def take(self, version: int) -> list[PlayedGroup]:
        """The next batch, sorted by group id, for learners whose weights have `version`.

        Raises:
            RuntimeError: more than `max_dropped_groups` were dropped meanwhile; carries the last reason. Or no runner
                is left.
            Interrupted: `stop` was set meanwhile.
        """
        wanted = self._config.num_groups_per_train_batch
        before = self._counts.copy()
        while not self._complete(wanted, version):
            if self.stop.is_set():
                raise Interrupted
            self._request(wanted, version)
            faults = self._receive(self._poll())
            num_dropped = self._counts["dropped"] - before["dropped"]
            if num_dropped > self._config.max_dropped_groups:
                raise RuntimeError(f"{num_dropped} groups were dropped in one iteration, last: {faults[-1].reason}")
            if faults:
                self._on_loss()
            self._discard(version, self._counts["uninformative"] - before["uninformative"])
        batch, self._ready = self._ready[:wanted], self._ready[wanted:]
        self._counts["delivered"] += wanted
        batch.sort(key=lambda ready: ready.group.group_id)
        for ready in batch:
            self.tasks.record(ready.group.task, ready.group.stats)
        return [ready.group for ready in batch]

    @property
    def counts(self) -> CollectorCounts:
        """They add up at any time."""
        unfinished = len(self._pending) + len(self._ready) + len(self._again)
        return CollectorCounts(**self._counts, unfinished=unfinished)

    def get_state(self) -> dict[str, Any]:
        """What a resumed run needs: groups that are on their way are played again."""
        unfinished = {group_id: pending.task for group_id, pending in self._pending.items()}
        unfinished |= {ready.group.group_id: ready.group.task for ready in self._ready} | self._again
        return {
            "next_group_id": self._next_group_id,
            "again": dict(sorted(unfinished.items())),
            "counts": dict(self._counts),
            "tasks": self.tasks.get_state(),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        self._pending, self._ready = {}, []
        self._next_group_id = state["next_group_id"]
        self._again = dict(state["again"])
        self._counts = Counter(state["counts"])
        self.tasks.set_state(state["tasks"])

    def _complete(self, wanted: int, version: int) -> bool:
        """Whether a batch is there, and nothing is missing that would be too old for the next one."""
        if len(self._ready) < wanted:
            return False
        if self._config.stale_groups == "drop":
            return True
        return all(pending.version > version - self._config.max_weights_lag for pending in self._pending.values())

    def _request(self, wanted: int, version: int) -> None:
        """Asks for as many groups as the bound allows, in shares as even as the runners' loads allow."""
        room = wanted * (1 + self._config.max_weights_lag) - len(self._pending) - len(self._ready)
        if room <= 0:
            return
        loads = {runner: 0 for runner in self._alive()}
        for pending in self._pending.values():
            if pending.runner in loads:
                loads[pending.runner] += 1
        shares: dict[int, dict[int, Task]] = {}
        for _ in range(room):
            runner = min(loads, key=lambda candidate: loads[candidate])
            group_id, task = self._next_group()
            loads[runner] += 1
            shares.setdefault(runner, {})[group_id] = task
            self._pending[group_id] = Pending(runner, version, task)
        self._play(shares)

    def _next_group(self) -> tuple[int, Task]:
        if self._again:
            group_id = next(iter(self._again))
            return group_id, self._again.pop(group_id)
        group_id = self._next_group_id
        self._next_group_id += 1
        self._counts["requested"] += 1
        return group_id, self.tasks.draw(group_id)

    def _play(self, shares: dict[int, dict[int, Task]]) -> None:
        if LOCAL_RUNNER in shares:
            self._runners.local_env_runner.play(shares[LOCAL_RUNNER])
            return
        self._runners.foreach_env_runner(
            "play",
            kwargs=[{"tasks": tasks} for tasks in shares.values()],
            remote_worker_ids=list(shares),
            local_env_runner=False,
        )

    def _poll(self) -> list[Sample]:
        if self._runners.num_remote_env_runners() == 0:
            return [self._runners.local_env_runner.finished(POLL_S)]
        samples: list[Sample] = self._runners.foreach_env_runner(
            "finished", kwargs={"timeout_s": POLL_S}, local_env_runner=False
        )
        return samples

    def _receive(self, samples: Iterable[Sample]) -> list[DroppedGroup]:
        """Takes what came. Groups of lost engines and runners are asked for again. Returns all that met a fault."""
        faults: list[tuple[DroppedGroup, Task]] = []
        for sample in samples:
            self.metrics.append(sample.metrics)
            for answer in sample.groups:
                pending = self._pending.pop(answer.group_id, None)
                if pending is None:
                    continue
                if isinstance(answer, PlayedGroup):
                    version = min(pending.version, answer.stats.weights_version)
                    self._ready.append(Ready(version, answer._replace(task=pending.task)))
                else:
                    faults.append((answer, pending.task))
        alive = {LOCAL_RUNNER, *self._runners.healthy_worker_ids()}
        lost = [group_id for group_id, pending in self._pending.items() if pending.runner not in alive]
        for group_id in lost:
            task = self._pending.pop(group_id).task
            faults.append((DroppedGroup(group_id, "its env runner was lost", lost=True), task))
        self._ready.sort(key=lambda ready: (ready.version, ready.group.group_id))
        for fault, task in faults:
            self._give_up(fault, task)
        return [fault for fault, _ in faults]

    def _give_up(self, fault: DroppedGroup, task: Task) -> None:
        """Drops the group, or asks for it again where it is not at fault."""
        if fault.lost:
            self._losses[fault.group_id] += 1
            if self._losses[fault.group_id] < MAX_LOSSES:
                self._again[fault.group_id] = task
                self._counts["redone"] += 1
                return
        self._counts["dropped"] += 1
        self.tasks.replace(task)

    def _discard(self, version: int, num_uninformative: int) -> None:
        """Leaves out groups that are too old, and, up to a bound per batch, those whose rewards are all equal."""
        oldest = version - self._config.max_weights_lag
        fresh = [ready for ready in self._ready if ready.version >= oldest]
        self._counts["stale"] += len(self._ready) - len(fresh)
        for ready in self._ready:
            if ready.version < oldest:
                self.tasks.replace(ready.group.task)
        room = max(0, self._config.max_uninformative_groups - num_uninformative)
        kept: list[Ready] = []
        for ready in fresh:
            if ready.group.stats.return_std == 0.0 and room:
                room -= 1
                self.tasks.record(ready.group.task, ready.group.stats)
                self.tasks.replace(ready.group.task)
            else:
                kept.append(ready)
        self._counts["uninformative"] += len(fresh) - len(kept)
        self._ready = kept

    def _alive(self) -> Sequence[int]:
        """Ids of the healthy runners; where all are gone, waits for the first one that Ray has restarted.

        Raises:
            RuntimeError: none came back within `env_runner_restore_timeout_s`, or none is to be restarted.
        """
        if self._runners.num_remote_env_runners() == 0:
            return [LOCAL_RUNNER]
        deadline = time.monotonic() + self._config.env_runner_restore_timeout_s
        while not (healthy := self._runners.healthy_worker_ids()):
            if not self._config.restart_failed_env_runners or time.monotonic() > deadline:
                raise RuntimeError("no env runner is left; see fault_tolerance(restart_failed_env_runners=...)")
            time.sleep(RESTART_POLL_S)
            self._on_loss()
        return list(healthy)
