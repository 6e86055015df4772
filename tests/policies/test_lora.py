"""Adapters: they begin as nothing, alone are trained, merge into plain weights, and are kept as peft keeps them."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel

from vlmgym_policies.lora import Lora, adapters_switched_off, is_adapter, load_adapters, save_adapters
from vlmgym_policies.processing import VLMProcessor, load_vlm
from vlmgym_policies.prompting import make_prompt
from vlmgym_policies.vlm_network import VLMNetwork, load_network

NUM_SCORED = 4


def inputs_for(path: Path, game: Any) -> dict[str, torch.Tensor]:
    processor = VLMProcessor(str(path))
    prompt = make_prompt(game.prompt, game.render(game.mid_game(0)))
    return processor.collate([processor.encode(prompt)], [prompt.images], "right")


def network(path: Path, lora: Lora | None, **options: Any) -> VLMNetwork:
    banned = VLMProcessor(str(path)).banned_token_ids
    options = {"dtype": torch.float32, **options}
    return load_network(str(path), banned_token_ids=banned, temperature=1.0, lora=lora, **options)


def trained(path: Path, game: Any, **options: Any) -> VLMNetwork:
    """After two steps large enough to see."""
    scorer = network(path, Lora(rank=4, alpha=8.0), **options)
    optimizer = torch.optim.AdamW([p for p in scorer.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(2):
        optimizer.zero_grad()
        scorer(inputs_for(path, game), NUM_SCORED).logprobs.sum().backward()
        optimizer.step()
    return scorer


def test_fresh_adapters_change_nothing_and_depend_on_the_seed_alone(qwen2_5_vl: Path, game: Any) -> None:
    inputs = inputs_for(qwen2_5_vl, game)
    one, same, other = (network(qwen2_5_vl, Lora(rank=4), seed=seed) for seed in (3, 3, 4))
    plain = network(qwen2_5_vl, None)(inputs, NUM_SCORED).logprobs
    torch.testing.assert_close(one(inputs, NUM_SCORED).logprobs, plain, rtol=0, atol=0)
    states = [dict(scorer.state()) for scorer in (one, same, other)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not all(torch.equal(states[0][name], states[2][name]) for name in states[0])


def test_adapters_alone_are_trained_and_in_float32(qwen2_5_vl: Path, game: Any) -> None:
    scorer = trained(qwen2_5_vl, game, dtype=torch.bfloat16)
    base = load_vlm(str(qwen2_5_vl), torch.bfloat16).state_dict()
    adapters = {name for name, p in scorer.model.named_parameters() if p.requires_grad}
    assert adapters == {name for name, _ in scorer.state() if is_adapter(name)}
    assert any(".visual." in name for name in adapters) and not any("lm_head" in name for name in adapters)
    for name, value in scorer.state():
        if is_adapter(name):
            assert value.dtype == torch.float32 and value.abs().max() > 0.0
        else:
            assert torch.equal(value, base[name.replace(".base_layer.", ".")]), name


def test_a_frozen_tower_gets_no_adapters(qwen2_5_vl: Path) -> None:
    names = [name for name, _ in network(qwen2_5_vl, Lora(rank=4), train_vision=False).state() if is_adapter(name)]
    assert names and not any(".visual." in name for name in names)


def test_merged_weights_are_the_trained_policy_under_plain_names(qwen2_5_vl: Path, game: Any) -> None:
    inputs, scorer = inputs_for(qwen2_5_vl, game), trained(qwen2_5_vl, game)
    plain = network(qwen2_5_vl, None)
    start = plain(inputs, NUM_SCORED).logprobs
    with torch.no_grad(), adapters_switched_off(scorer.model):
        torch.testing.assert_close(scorer(inputs, NUM_SCORED).logprobs, start.detach(), rtol=0, atol=0)
    weights = dict(scorer.weights())
    assert weights.keys() == dict(plain.state()).keys()
    plain.load_state(weights)
    scores = scorer(inputs, NUM_SCORED).logprobs
    assert (scores - start).abs().max() > 0.1
    torch.testing.assert_close(plain(inputs, NUM_SCORED).logprobs, scores, rtol=1e-4, atol=1e-4)


def test_adapters_are_kept_as_peft_keeps_them(qwen2_5_vl: Path, game: Any, tmp_path: Path) -> None:
    inputs, scorer = inputs_for(qwen2_5_vl, game), trained(qwen2_5_vl, game)
    lora = Lora(rank=4, alpha=8.0)
    save_adapters(tmp_path, lora, str(qwen2_5_vl), scorer.model, scorer.state())
    assert json.loads((tmp_path / "adapter_config.json").read_text())["base_model_name_or_path"] == str(qwen2_5_vl)
    expected = scorer(inputs, NUM_SCORED).logprobs
    by_peft = PeftModel.from_pretrained(load_vlm(str(qwen2_5_vl), torch.float32), tmp_path)
    logits = by_peft(**inputs).logits[:, -NUM_SCORED - 1 : -1]
    logits[..., list(VLMProcessor(str(qwen2_5_vl)).banned_token_ids)] = float("-inf")
    targets = inputs["input_ids"][:, -NUM_SCORED:, None]
    found = torch.log_softmax(logits, -1).gather(-1, targets).squeeze(-1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)

    again = network(qwen2_5_vl, lora)
    again.load_state(load_adapters(tmp_path, again.model))
    torch.testing.assert_close(again(inputs, NUM_SCORED).logprobs, expected, rtol=0, atol=0)
    other = network(qwen2_5_vl, Lora(rank=4, target_modules=("q_proj",)))
    with pytest.raises(ValueError, match="must hold the adapters of the model"):
        load_adapters(tmp_path, other.model)


def test_layers_that_take_no_adapters_are_refused(qwen2_5_vl: Path) -> None:
    with pytest.raises(ValueError, match="target_modules must name linear layers"):
        network(qwen2_5_vl, Lora(rank=4, target_modules=("embed_tokens",)))
    with pytest.raises(ValueError, match="not found"):
        network(qwen2_5_vl, Lora(rank=4, target_modules=("no_such_layer",)))
