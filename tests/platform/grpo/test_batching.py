import numpy as np
import torch

from vlmgym.grpo.batching import collate, object_array
from vlmgym.grpo.sequences import TrainSequence
from vlmgym_policies.processing import VLMProcessor
from vlmgym_policies.prompting import make_prompt


def test_object_array_keeps_records_whole():
    records = [record([1, 2], [3], i) for i in range(3)]
    array = object_array(records)
    assert array.shape == (3,) and array[1] is records[1]


def record(prompt, response, advantage, images=()):
    return TrainSequence(
        prompt_ids=np.array(prompt, dtype=np.int32),
        response_ids=np.array(response, dtype=np.int32),
        old_logprobs=-np.arange(1, len(response) + 1, dtype=np.float32),
        weights=np.ones(len(response), dtype=np.float32),
        advantages=np.full(len(response), advantage, dtype=np.float32),
        turns=np.arange(len(response), dtype=np.int32),
        denominator=1.0,
        images=images,
    )


def test_values_stand_where_their_token_is_predicted(make_model, inputs_of):
    """Prompts of 3 and 1 tokens, responses of 2 and 3: width 5, the last 4 positions are scored."""
    processor = VLMProcessor(str(make_model(0)))
    records = [record([5, 6, 7], [8, 9], 0.5), record([5], [6, 7, 8], -1.0)]
    micro = collate(records, inputs_of(processor), torch.device("cpu"))
    pad = processor.pad_token_id
    torch.testing.assert_close(micro.inputs["input_ids"], torch.tensor([[5, 6, 7, 8, 9], [5, 6, 7, 8, pad]]))
    assert micro.inputs["num_scored"] == 4
    torch.testing.assert_close(micro.weights, torch.tensor([[0.0, 0, 1, 1], [1, 1, 1, 0]]))
    torch.testing.assert_close(micro.old_logprobs, torch.tensor([[0.0, 0, -1, -2], [-1, -2, -3, 0]]))
    torch.testing.assert_close(micro.advantages, torch.tensor([[0.0, 0, 0.5, 0.5], [-1, -1, -1, 0]]))
    torch.testing.assert_close(micro.turns, torch.tensor([[0, 0, 0, 1], [0, 1, 2, 0]]))


def test_pictures_come_along_in_order(make_model, game, inputs_of):
    processor = VLMProcessor(str(make_model(0)))
    prompts = [make_prompt(game.prompt, game.render(game.mid_game(seed))) for seed in range(2)]
    records = [record(processor.encode(p), [8, 9], 1.0, p.images) for p in prompts]
    inputs = collate(records, inputs_of(processor), torch.device("cpu")).inputs
    ids = [processor.encode(p) for p in prompts]
    expected = processor.collate(ids, [p.images for p in prompts], "right")["pixel_values"]
    torch.testing.assert_close(inputs["pixel_values"], expected)
    assert inputs["image_grid_thw"].tolist() == [[1, 6, 8]] * 2
