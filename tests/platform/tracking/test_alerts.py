import math

import pytest

from vlmgym.settings import AlertSettings
from vlmgym.tracking.alerts import Alarms


def titles(settings: AlertSettings, name: str, values: list[float]) -> list[list[str]]:
    alarms = Alarms(settings)
    return [[alert.title for alert in alarms.check("grpo", step, {name: value})] for step, value in enumerate(values)]


def test_an_alert_after_so_many_steps_in_a_row_and_once() -> None:
    settings = AlertSettings(kl_above=0.5, steps=2)
    assert titles(settings, "kl", [0.6, 0.5, 0.6, 0.7, 0.8, 0.9]) == [[], [], [], ["KL exploded"], [], []]


def test_a_rule_that_was_kept_meanwhile_alerts_again() -> None:
    settings = AlertSettings(logprob_mismatch_above=0.1, steps=1)
    found = titles(settings, "logprob_mismatch/mean", [0.2, 0.2, 0.0, 0.2])
    assert [len(alerts) for alerts in found] == [1, 0, 0, 1]


@pytest.mark.parametrize(
    ("name", "title"), [("format_rate", "format rate collapsed"), ("entropy", "entropy collapsed")]
)
def test_what_was_never_high_has_not_collapsed(name: str, title: str) -> None:
    settings = AlertSettings(entropy_below=0.5, format_rate_below=0.5, steps=1)
    assert titles(settings, name, [0.0, 0.1, 0.6, 0.1]) == [[], [], [], [title]]


def test_a_divergence_that_is_no_number_has_exploded() -> None:
    assert titles(AlertSettings(steps=1), "kl", [math.nan]) == [["KL exploded"]]


def test_a_bound_of_none_never_alerts_and_other_metrics_do_not_matter() -> None:
    assert titles(AlertSettings(kl_above=None, steps=1), "kl", [100.0]) == [[]]
    assert titles(AlertSettings(steps=1), "loss", [math.nan]) == [[]]


def test_the_text_says_where_which_value_broke_which_bound() -> None:
    (alert,) = Alarms(AlertSettings(kl_above=0.5, steps=1)).check("grpo", 7, {"kl": 0.75})
    assert alert.text == "grpo 7: kl is 0.75, above 0.5 for 1 iteration(s)"
