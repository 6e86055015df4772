import math
from collections import Counter

import pytest

from vlmgym.tracking.metrics import FIELDS, METRICS, find_metric
from vlmgym.tracking.prometheus import gauge_labels, gauge_name
from vlmgym.tracking.step_metrics import step_metrics


@pytest.mark.parametrize("stage", METRICS)
def test_every_metric_is_declared_once(stage: str) -> None:
    assert [name for name, count in Counter(metric.name for metric in METRICS[stage]).items() if count > 1] == []
    for metric in METRICS[stage]:
        assert metric.meaning and not metric.meaning.endswith(".")
        assert set(metric.fields) <= set(FIELDS)


def test_a_name_is_found_with_the_values_of_its_fields() -> None:
    found = find_metric("grpo", "evaluation/greedy/game/swap/tiny-cols-4/perception_error/ghost")
    assert found is not None
    metric, fields = found
    assert metric.name == "evaluation/{mode}/game/{game}/{level}/perception_error/ghost"
    assert fields == {"mode": "greedy", "game": "swap", "level": "tiny-cols-4"}
    assert find_metric("grpo", "evaluation/greedy/regret") is None
    assert find_metric("cold_start", "reward") is None


def test_the_numbers_of_a_result_get_their_names() -> None:
    """The level `large` was played in an earlier step."""
    result = {
        "env_runners": {
            "episode_return_mean": 1.5,
            "game": {"swap": {"tiny": {"regret": 2}, "paper": {"regret": 3}, "large": {"regret": math.nan}}},
            "of_the_user": 7,
        },
        "learners": {"policy": {"kl": 0.25}},
        "timers": {},
    }
    assert step_metrics("grpo", result) == {
        "reward": 1.5,
        "kl": 0.25,
        "game/swap/tiny/regret": 2.0,
        "game/swap/paper/regret": 3.0,
    }


def test_gauges_of_one_name_have_the_same_labels() -> None:
    """Ray refuses a gauge that is registered again with others."""
    labels: dict[str, set[tuple[str, ...]]] = {}
    for stage in METRICS.values():
        for metric in stage:
            labels.setdefault(gauge_name(metric), set()).add(gauge_labels(metric))
    assert [name for name, kinds in labels.items() if len(kinds) > 1] == []
