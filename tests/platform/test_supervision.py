"""When a run that failed goes on, and what SIGTERM does."""

import os
import signal
import threading

from vlmgym.metrics_file import Point
from vlmgym.supervision import Restarts, stop_signal


def test_a_failure_before_any_step_is_final():
    restarts = Restarts(3)
    assert not restarts.allow(None, None)
    assert not restarts.allow(Point("grpo", 10), Point("grpo", 10))
    assert restarts.count == 0


def test_a_failure_at_the_same_step_again_is_final():
    restarts = Restarts(9)
    assert restarts.allow(Point("grpo", 10), Point("grpo", 13))
    assert not restarts.allow(Point("grpo", 10), Point("grpo", 13))
    assert restarts.count == 1


def test_failures_elsewhere_are_gone_on_from_a_bounded_number_of_times():
    restarts = Restarts(2)
    reached = [Point("cold_start", 5), Point("grpo", 3), Point("grpo", 8)]
    assert [restarts.allow(None, point) for point in reached] == [True, True, False]
    assert restarts.count == 2
    assert not Restarts(0).allow(None, Point("grpo", 8))


def test_sigterm_sets_the_event_once_and_handlers_come_back():
    before = signal.getsignal(signal.SIGTERM)
    said = []
    with stop_signal(said.append) as stop:
        assert not stop.is_set()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.wait(10)
        assert len(said) == 1
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL, "a second one ends the process"
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_thread_that_gets_no_signals_runs_without():
    seen = []

    def run():
        with stop_signal(seen.append) as stop:
            seen.append(stop.is_set())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [False]
