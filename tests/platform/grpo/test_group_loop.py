"""When groups begin: none waits for another, and less than a group more is played at once than was asked for."""

import asyncio

import pytest

from vlmgym.grpo.group_loop import GroupLoop, Ticket


class Table:
    """Groups whose branches end when they are told to. began: (slot, group id) in order."""

    def __init__(self, num_slots, num_branches, group_size):
        self.began, self._ends, self._group_size = [], {}, group_size
        self.loop = GroupLoop(self._play, num_slots, num_branches, group_size)

    async def _play(self, slot, ticket, on_branch_end):
        ends = self._ends[ticket.group_id] = asyncio.Queue()
        self.began.append((slot, ticket.group_id))
        for _ in range(self._group_size):
            if (fault := await ends.get()) is not None:
                raise fault
            on_branch_end()
        return f"group {ticket.group_id}"

    def submit(self, *group_ids):
        self.loop.submit(Ticket(group_id, explore=True) for group_id in group_ids)
        self.settle()

    def end_branch(self, group_id, fault=None):
        self.loop._loop.call_soon_threadsafe(lambda: self._ends[group_id].put_nowait(fault))
        self.settle()

    def settle(self):
        """Waits until the loop has nothing left to do."""
        asyncio.run_coroutine_threadsafe(asyncio.sleep(0.02), self.loop._loop).result(5.0)

    @property
    def begun(self):
        return [group_id for _, group_id in self.began]


@pytest.fixture
def table():
    tables = []

    def make(*sizes):
        tables.append(Table(*sizes))
        return tables[-1]

    yield make
    for made in tables:
        made.loop.stop()


def test_a_group_begins_when_a_branch_of_another_has_ended(table):
    """Four places, groups of two: the third begins in place of one branch and has one place too many."""
    groups = table(4, 4, 2)
    groups.submit(10, 11, 12, 13)
    assert groups.begun == [10, 11]
    groups.end_branch(10)
    assert groups.begun == [10, 11, 12]
    groups.end_branch(11)
    assert groups.begun == [10, 11, 12]
    assert groups.loop.take(0.0) == []
    groups.end_branch(10)
    assert groups.begun == [10, 11, 12, 13]
    assert groups.loop.take(1.0) == [(10, "group 10")]


def test_a_group_waits_for_an_environment_too(table):
    groups = table(1, 4, 2)
    groups.submit(10, 11)
    groups.end_branch(10)
    assert groups.begun == [10]
    groups.end_branch(10)
    assert groups.began == [(0, 10), (0, 11)]


def test_a_fault_gives_back_what_its_group_had(table):
    groups = table(1, 2, 2)
    groups.submit(10, 11)
    groups.end_branch(10)
    groups.end_branch(10, OSError("the board fell off the table"))
    ((group_id, outcome),) = groups.loop.take(1.0)
    assert group_id == 10 and str(outcome) == "the board fell off the table"
    assert groups.begun == [10, 11]
    groups.end_branch(11)
    groups.end_branch(11)
    assert groups.loop.take(1.0) == [(11, "group 11")]


def test_first_environments_are_used_first(table):
    groups = table(4, 4, 2)
    for group_id in (10, 11, 12):
        groups.submit(group_id)
        groups.end_branch(group_id)
        groups.end_branch(group_id)
    assert groups.began == [(0, 10), (0, 11), (0, 12)]
