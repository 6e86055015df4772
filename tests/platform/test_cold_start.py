"""The supervised warm-up: what it imitates, and that it learns it."""

from functools import partial

import numpy as np
import pytest

from vlmgym.cold_start import ColdStartConfig
from vlmgym.demonstrations import DemonstrationWriter, TaughtDemonstrations
from vlmgym_envs.splits import in_held_out
from vlmgym_policies.answers import parse_response
from vlmgym_policies.processing import VLMProcessor

ENV = {"game": "shisen_sho", "level": "tiny", "held_out": 0.3}


def make_writer(model, seed):
    make = partial(TaughtDemonstrations, ENV, [{"solver": 1.0}], seed=seed)
    return DemonstrationWriter(make, str(model), answer_weight=5.0)


@pytest.fixture
def writer(make_model):
    return make_writer(make_model(0), seed=1)


def test_the_teacher_sees_exactly(writer, make_model, game):
    processor = VLMProcessor(str(make_model(0)))
    for record in writer.write(0, 20):
        text = processor.decode(record.response_ids)
        response = parse_response(text)
        state = game.from_text(response.perception)
        assert game.step(state, game.parse(response.answer)).refused is None
        assert not in_held_out(game.key(state), 0.3)


def test_the_ith_demonstration_depends_on_the_seed_and_i_alone(writer, make_model):
    together = writer.write(0, 6)
    again = make_writer(make_model(0), seed=1).write(3, 3)
    for one, other in zip(together[3:], again, strict=True):
        np.testing.assert_array_equal(one.response_ids, other.response_ids)
        assert one.images == other.images
    other_seed = make_writer(make_model(0), seed=2).write(0, 6)
    assert any(
        len(a.response_ids) != len(b.response_ids) or (a.response_ids != b.response_ids).any()
        for a, b in zip(together, other_seed, strict=True)
    )


def test_think_and_answer_weigh_more(writer, make_model):
    processor = VLMProcessor(str(make_model(0)))
    (record,) = writer.write(0, 1)
    light = record.response_ids[record.weights == 1.0]
    heavy = record.response_ids[record.weights == 5.0]
    assert len(light) + len(heavy) == len(record.weights)
    assert processor.decode(light).startswith("<perception>") and "think" not in processor.decode(light)
    assert processor.decode(heavy).endswith("</answer>") and heavy[-1] in processor.eos_token_ids


@pytest.mark.parametrize("num_learners", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_learns_on_one_and_on_two_learners(make_config, num_learners):
    config = make_config(ColdStartConfig()).env_runners(num_env_runners=0)
    config.demonstrations(demonstrations_per_update=8, updates_per_iteration=5)
    config.training(lr=3e-3).learners(num_learners=num_learners)
    algorithm = config.build_algo()
    try:
        losses = [algorithm.train()["learners"]["policy"]["loss"] for _ in range(3)]
        assert losses[2] < losses[0] - 0.5
        assert algorithm.weights_version == 15
        assert algorithm.metrics.peek(("env_runners", "num_env_steps_sampled_lifetime")) == 120
    finally:
        algorithm.stop()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.demonstrations(demonstrations_per_update=5).learners(num_learners=2), "must divide by"),
        (lambda c: c.demonstrations(answer_weight=0.0), "answer_weight must be above 0, got 0.0"),
        (lambda c: c.demonstrations(teacher={"wizard": 1.0}), "teacher must be one of .*got wizard"),
    ],
)
def test_what_makes_no_sense_is_refused(change, message):
    config = ColdStartConfig().environment(env_config=ENV).vlm("anywhere")
    with pytest.raises(ValueError, match=message):
        change(config).validate()
