"""How weights, requests, caches and device memory take turns, with a recording stand-in for vLLM: no vLLM is needed."""

import asyncio
import functools

import pytest

from vlmgym_policies.engine import NoWeightsError
from vlmgym_policies.engines._vllm_weights import ServedWeights

pytestmark = pytest.mark.filterwarnings("error")


def asynchronous(test):
    @functools.wraps(test)
    def run(**arguments):
        asyncio.run(asyncio.wait_for(test(**arguments), 10))

    return run


class Recorder:
    """Stands for an `AsyncLLM` and for a transport. broken: name of the call that fails."""

    def __init__(self):
        self.calls = []
        self.broken = None

    def _record(self, name, *arguments):
        self.calls.append(" ".join([name, *map(str, arguments)]))
        if name == self.broken:
            raise RuntimeError(f"{name} broke")

    async def accept(self, weights):
        if weights == "of another model":
            raise ValueError("weights must be those of this model")
        return weights

    async def connect(self, llm, accepted):
        self._record("connect")

    async def push(self, llm, accepted):
        self._record("push", accepted)

    async def pause_generation(self, *, mode, clear_cache):
        assert clear_cache
        self._record("pause", mode)

    async def resume_generation(self):
        self._record("resume")

    async def sleep(self, level):
        self._record("sleep", level)

    async def wake_up(self, tags):
        self._record("wake", *tags)


class Answers:
    """Requests that end when they are told to, or at once. started: versions that the attempts began with."""

    def __init__(self, at_once=False):
        self.started = []
        self.may_end = asyncio.Event()
        if at_once:
            self.may_end.set()

    async def __call__(self, version):
        self.started.append(version)
        await self.may_end.wait()
        return version


def served(recorder, in_flight="finish", version=0, frees_memory=False):
    return ServedWeights(recorder, recorder, in_flight, version, frees_memory)


async def settle():
    for _ in range(10):
        await asyncio.sleep(0)


async def asked(weights, answers=None):
    task = asyncio.ensure_future(weights.serve(answers or Answers()))
    await settle()
    return task


async def ended(answers):
    answers.may_end.set()
    await settle()


@asynchronous
async def test_what_is_under_way_finishes_and_what_comes_waits():
    llm, answers, later = Recorder(), Answers(), Answers()
    weights = served(llm)
    first = await asked(weights, answers)
    load = asyncio.ensure_future(weights.load("new", 1))
    second = await asked(weights, later)
    assert not load.done() and llm.calls == ["connect"] and later.started == []
    await ended(answers)
    await load
    await ended(later)
    assert (first.result(), second.result(), answers.started) == (0, 1, [0])
    assert llm.calls == ["connect", "pause wait", "push new", "resume"]


@asynchronous
async def test_what_is_under_way_starts_again_and_no_load_waits_for_it():
    llm, stuck, done = Recorder(), Answers(), Answers(at_once=True)
    weights = served(llm, "redo")
    finished = await asked(weights, done)
    caught = [await asked(weights, stuck) for _ in range(3)]
    await weights.load("new", 1)
    await weights.load("newer", 2)
    await settle()
    await ended(stuck)
    assert finished.result() == 0
    assert [task.result() for task in caught] == [2, 2, 2]
    assert stuck.started[:3] == [0, 0, 0] and stuck.started[-3:] == [2, 2, 2]
    assert llm.calls[:4] == ["connect", "pause abort", "push new", "resume"]


@asynchronous
async def test_a_caller_that_leaves_is_not_started_again():
    answers = Answers()
    weights = served(Recorder(), "redo")
    caller = await asked(weights, answers)
    load = asyncio.ensure_future(weights.load("new", 1))
    caller.cancel()
    await load
    await settle()
    assert caller.cancelled() and answers.started == [0]


@asynchronous
async def test_an_error_of_a_request_is_its_own():
    async def broken(version):
        raise KeyError(version)

    weights = served(Recorder(), "redo")
    with pytest.raises(KeyError):
        await weights.serve(broken)
    await weights.load("new", 1)
    assert weights.version == 1


@pytest.mark.parametrize("in_flight", ["finish", "redo"])
@pytest.mark.parametrize("broken", ["connect", "pause", "push", "resume"])
@asynchronous
async def test_after_a_broken_load_nothing_is_served_until_one_succeeds(in_flight, broken):
    llm, answers = Recorder(), Answers()
    weights = served(llm, in_flight)
    caught = await asked(weights, answers)
    llm.broken = broken
    load = asyncio.ensure_future(weights.load("new", 1))
    waiting = await asked(weights)
    await ended(answers)
    with pytest.raises(RuntimeError, match=f"{broken} broke"):
        await load
    await settle()
    assert weights.version is None
    if broken != "connect":
        assert isinstance(waiting.exception(), NoWeightsError)
        assert in_flight == "finish" or isinstance(caught.exception(), NoWeightsError)
    assert in_flight == "redo" or caught.result() == 0
    with pytest.raises(NoWeightsError):
        await weights.serve(answers)
    llm.broken = None
    await weights.load("newer", 2)
    assert await weights.serve(answers) == 2
    waiting.cancel()


@asynchronous
async def test_weights_that_are_refused_change_nothing():
    llm, answers = Recorder(), Answers()
    weights = served(llm, "redo")
    caught = await asked(weights, answers)
    with pytest.raises(ValueError, match="those of this model"):
        await weights.load("of another model", 1)
    await ended(answers)
    assert caught.result() == 0 and llm.calls == []


@pytest.mark.parametrize("in_flight", ["finish", "redo"])
@asynchronous
async def test_sleep_gives_memory_back_and_a_load_takes_it_again_in_the_order_that_cuda_needs(in_flight):
    llm, answers, later = Recorder(), Answers(), Answers()
    weights = served(llm, in_flight, frees_memory=True)
    caught = await asked(weights, answers)
    sleep = asyncio.ensure_future(weights.sleep())
    await settle()
    assert sleep.done() == (in_flight == "redo")
    await ended(answers)
    await sleep
    await weights.sleep()
    waiting = await asked(weights, later)
    assert llm.calls == ["sleep 2"] and not waiting.done() and later.started == []
    await weights.load("new", 1)
    await ended(later)
    assert llm.calls == ["sleep 2", "connect", "wake weights", "push new", "wake kv_cache", "resume"]
    assert (await caught, await waiting) == (0 if in_flight == "finish" else 1, 1)
    await weights.load("newer", 2)
    assert llm.calls[-4:-2] == ["connect", f"pause {'wait' if in_flight == 'finish' else 'abort'}"]


@asynchronous
async def test_without_memory_to_give_back_requests_wait_all_the_same():
    llm, answers = Recorder(), Answers(at_once=True)
    weights = served(llm)
    await weights.sleep()
    waiting = await asked(weights, answers)
    await settle()
    assert not waiting.done() and weights.version == 0
    await weights.load("new", 1)
    assert await waiting == 1
    assert llm.calls == ["connect", "pause wait", "push new", "resume"]


@asynchronous
async def test_only_weights_that_are_loaded_wake_a_sleeper_and_one_that_is_paused_stays_so():
    llm, answers = Recorder(), Answers(at_once=True)
    weights = served(llm, frees_memory=True)
    await weights.sleep()
    waiting = await asked(weights, answers)
    await weights.resume()
    with pytest.raises(ValueError):
        await weights.load("of another model", 1)
    await settle()
    assert not waiting.done() and llm.calls == ["sleep 2"]
    await weights.pause()
    await weights.load("new", 1)
    await settle()
    assert not waiting.done()
    await weights.resume()
    assert await waiting == 1


@pytest.mark.parametrize("broken", ["wake", "push"])
@asynchronous
async def test_a_broken_load_of_a_sleeper_is_followed_by_one_that_wakes_it(broken):
    llm, answers = Recorder(), Answers(at_once=True)
    weights = served(llm, frees_memory=True)
    await weights.sleep()
    waiting = await asked(weights, answers)
    llm.broken = broken
    with pytest.raises(RuntimeError, match=f"{broken} broke"):
        await weights.load("new", 1)
    with pytest.raises(NoWeightsError):
        await waiting
    llm.broken, llm.calls = None, []
    await weights.load("newer", 2)
    assert llm.calls == ["connect", "wake weights", "push newer", "wake kv_cache", "resume"]
    assert await weights.serve(answers) == 2


@asynchronous
async def test_a_broken_sleep_leaves_nothing_to_serve_until_weights_come():
    llm, answers = Recorder(), Answers(at_once=True)
    weights = served(llm, frees_memory=True)
    llm.broken = "sleep"
    with pytest.raises(RuntimeError, match="sleep broke"):
        await weights.sleep()
    with pytest.raises(NoWeightsError):
        await weights.serve(answers)
    await weights.load("new", 1)
    assert llm.calls == ["sleep 2", "connect", "wake weights", "push new", "wake kv_cache", "resume"]
    assert await weights.serve(answers) == 1


@asynchronous
async def test_a_pause_lets_requests_finish_and_a_load_meanwhile_may_send_them_back():
    answers = Answers()
    weights = served(Recorder(), "redo")
    caught = await asked(weights, answers)
    pause = asyncio.ensure_future(weights.pause())
    await settle()
    assert not pause.done()
    await weights.load("new", 1)
    await pause
    assert not caught.done()
    await weights.resume()
    await settle()
    await ended(answers)
    assert caught.result() == 1 and answers.started == [0, 1]


@asynchronous
async def test_loads_and_sleeps_follow_each_other_in_the_order_of_their_calls():
    llm, answers = Recorder(), Answers()
    weights = served(llm, frees_memory=True)
    calls = [weights.load("a", 1), weights.sleep(), weights.load("b", 2), weights.sleep()]
    await asyncio.gather(*calls)
    waiting = await asked(weights, answers)
    turns = [call for call in llm.calls if call.startswith(("push", "sleep"))]
    assert turns == ["push a", "sleep 2", "push b", "sleep 2"]
    assert not waiting.done() and weights.version == 2
    waiting.cancel()
