"""Networks that score tokens, on tiny models of each architecture: against the plain model, and their precision."""

from pathlib import Path
from typing import Any

import pytest
import torch

from vlmgym_policies.processing import VLMProcessor, load_vlm
from vlmgym_policies.prompting import make_prompt
from vlmgym_policies.vlm_network import check_output_layer, load_network, vision_tower

NUM_SCORED = 6


@pytest.fixture(params=["qwen3_vl", "qwen2_5_vl", "llava"])
def path(request: pytest.FixtureRequest, make_model: Any) -> str:
    """Qwen3-VL ties its output layer to its embeddings, the others do not."""
    return str(make_model(0) if request.param == "qwen3_vl" else request.getfixturevalue(request.param))


def inputs_for(path: str | Path, game: Any) -> dict[str, torch.Tensor]:
    """Two prompts with a board each and a response; rows of different lengths."""
    processor = VLMProcessor(str(path))
    prompts = [make_prompt(game.prompt, game.render(game.mid_game(seed))) for seed in range(2)]
    responses = [processor.spell_response(text).token_ids for text in ("(0, 1) (2, 3)", "(1")]
    rows = [
        torch.cat([torch.from_numpy(processor.encode(p)), torch.from_numpy(r)]).numpy()
        for p, r in zip(prompts, responses, strict=True)
    ]
    return processor.collate(rows, [p.images for p in prompts], "right")


def network(path: str | Path, **options: Any) -> Any:
    processor = VLMProcessor(str(path))
    options = {"dtype": torch.float32, "temperature": 0.8, **options}
    return load_network(str(path), banned_token_ids=processor.banned_token_ids, **options)


def test_scores_and_gradients_are_those_of_the_plain_model(path: str, game: Any) -> None:
    inputs, scorer, model = inputs_for(path, game), network(path), load_vlm(path, torch.float32)
    logits = model(**inputs, use_cache=False).logits[:, -NUM_SCORED - 1 : -1] / 0.8
    logits[..., list(VLMProcessor(path).banned_token_ids)] = float("-inf")
    plain = torch.log_softmax(logits, -1)
    targets = inputs["input_ids"][:, -NUM_SCORED:]
    expected = plain.gather(-1, targets[..., None]).squeeze(-1)
    entropy = torch.distributions.Categorical(logits=logits).entropy()
    counted = (targets != VLMProcessor(path).pad_token_id) & expected.isfinite()
    found = scorer(inputs, NUM_SCORED)
    torch.testing.assert_close(found.logprobs[counted], expected[counted], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.entropy, entropy, rtol=1e-4, atol=1e-5)
    expected[counted].sum().backward()
    found.logprobs[counted].sum().backward()
    for (name, one), other in zip(model.named_parameters(), scorer.model.parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None), name
        if one.grad is not None:
            torch.testing.assert_close(other.grad, one.grad, rtol=1e-3, atol=1e-4, msg=name)


def test_a_checkpointed_network_has_the_same_gradients(path: str, game: Any) -> None:
    inputs, networks = inputs_for(path, game), [network(path, activation_checkpointing=on) for on in (False, True)]
    for each in networks:
        each(inputs, NUM_SCORED).logprobs.sum().backward()
    for one, other in zip(*(each.parameters() for each in networks), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-5, atol=1e-6)


def test_bfloat16_products_leave_weights_that_small_steps_move(path: str, game: Any) -> None:
    """lr 1e-6: a bfloat16 weight of size 0.1 cannot change by less than 2e-4."""
    inputs, scorer = inputs_for(path, game), network(path, dtype=torch.bfloat16)
    exact = network(path)(inputs, NUM_SCORED).logprobs
    scores = scorer(inputs, NUM_SCORED)
    assert 0.0 < (scores.logprobs - exact).abs().max() < 0.5
    before = {name: value.clone() for name, value in scorer.state()}
    assert {value.dtype for value in before.values()} == {torch.float32}
    scores.logprobs.sum().backward()
    torch.optim.AdamW(scorer.parameters(), lr=1e-6).step()
    moved = [(value != before[name]).float().mean() for name, value in scorer.state() if "layers.0" in name]
    assert min(moved) > 0.9


def test_what_is_frozen_is_held_in_the_dtype_of_products(path: str, game: Any) -> None:
    scorer = network(path, dtype=torch.bfloat16, train_vision=False)
    tower = list(vision_tower(scorer.model).parameters())
    assert {p.dtype for p in tower} == {torch.bfloat16} and not any(p.requires_grad for p in tower)
    rest = [p for p in scorer.parameters() if p.requires_grad]
    assert {p.dtype for p in rest} == {torch.float32} and rest
    scorer(inputs_for(path, game), NUM_SCORED).logprobs.sum().backward()
    reference = network(path, dtype=torch.bfloat16, trained=False)
    assert {p.dtype for p in reference.parameters()} == {torch.bfloat16}
    assert not reference(inputs_for(path, game), NUM_SCORED).logprobs.requires_grad


def test_state_goes_there_and_back(path: str) -> None:
    scorer, other = network(path), network(path)
    state = {name: torch.rand_like(value) for name, value in scorer.state()}
    other.load_state(state)
    tied = {name for name, value in other.state() if not torch.equal(value, state[name])}
    assert tied <= {"lm_head.weight", "model.language_model.embed_tokens.weight"}
    with pytest.raises(ValueError, match="lacks"):
        other.load_state(dict(list(state.items())[1:]))
    with pytest.raises(ValueError, match="unknown"):
        other.load_state({**state, "something": torch.zeros(1)})


def test_a_model_that_changes_its_logits_is_refused(qwen2_5_vl: Path) -> None:
    model = load_vlm(str(qwen2_5_vl), torch.float32)
    check_output_layer(model)
    model.config.get_text_config().final_logit_softcapping = 30.0
    with pytest.raises(ValueError, match="changes its logits by final_logit_softcapping"):
        check_output_layer(model)
