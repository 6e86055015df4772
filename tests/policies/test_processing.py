import re

import numpy as np
import pytest
import torch
from transformers import AutoProcessor

from vlmgym_policies.engine import Message, Prompt
from vlmgym_policies.processing import VLMProcessor, load_vlm
from vlmgym_policies.prompting import make_prompt


def test_a_path_without_a_model_is_one_clear_line(tmp_path):
    for load in (VLMProcessor, lambda path: load_vlm(path, torch.float32)):
        with pytest.raises(ValueError, match=re.escape(f"model {str(tmp_path)!r}")) as error:
            load(str(tmp_path))
        assert "\n" not in str(error.value)


def test_siblings_share_the_encoding(make_model, game):
    processor = VLMProcessor(str(make_model(0)))
    image = game.render(game.mid_game(0))
    assert processor.encode(make_prompt("x", image)) is processor.encode(make_prompt("x", image.copy(), state=1))


def test_left_and_right_padding(make_model):
    processor = VLMProcessor(str(make_model(0)))
    ids = [np.array([5, 6, 7], dtype=np.int32), np.array([8], dtype=np.int32)]
    pad = processor.pad_token_id
    left = processor.collate(ids, [(), ()], padding="left")
    right = processor.collate(ids, [(), ()], padding="right")
    assert left["input_ids"].tolist() == [[5, 6, 7], [pad, pad, 8]]
    assert right["input_ids"].tolist() == [[5, 6, 7], [8, pad, pad]]
    assert left["attention_mask"].tolist() == [[1, 1, 1], [0, 0, 1]]
    assert "pixel_values" not in left


def test_two_pictures_in_one_prompt(make_model, game):
    processor = VLMProcessor(str(make_model(0)))
    images = tuple(make_prompt("", game.render(game.mid_game(seed))).images[0] for seed in range(2))
    encoded = processor.encode(Prompt((Message("user", "both", images),)))
    assert (encoded == processor.image_token_id).sum() == 24
    assert processor.collate([encoded], [images], "left")["image_grid_thw"].tolist() == [[1, 6, 8]] * 2


def test_ids_are_those_of_the_hugging_face_processor(make_model, game):
    path = make_model(0)
    image = game.render(game.mid_game(0))
    prompt = Prompt((Message("system", "play"), Message("user", game.prompt, make_prompt("", image).images * 2)))
    content = [{"type": "image"}, {"type": "image"}, {"type": "text", "text": game.prompt}]
    chat = [{"role": "system", "content": [{"type": "text", "text": "play"}]}, {"role": "user", "content": content}]
    theirs = AutoProcessor.from_pretrained(path)
    text = theirs.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    expected = theirs(text=[text], images=[image, image])["input_ids"][0]
    np.testing.assert_array_equal(VLMProcessor(str(path)).encode(prompt), expected)


def test_saving_keeps_the_files_that_only_other_engines_read(make_model, tmp_path):
    path = make_model(0)
    VLMProcessor(str(path)).save_pretrained(tmp_path)
    name = "video_preprocessor_config.json"
    assert (tmp_path / name).read_bytes() == (path / name).read_bytes()


def test_a_prompt_that_is_too_long_loses_whole_turns_and_their_pictures(make_model, game):
    processor = VLMProcessor(str(make_model(0)))
    images = [make_prompt("", game.render(game.mid_game(seed))).images for seed in range(3)]
    turns = [m for i in images for m in (Message("user", "now?", i), Message("assistant", "(0, 1)"))][:-1]
    prompt = Prompt((Message("system", "play"), *turns))
    whole = processor.encode(prompt)
    assert processor.fit(prompt, len(whole)).num_cut_turns == 0

    fitted = processor.fit(prompt, len(whole) - 1)
    assert fitted.num_cut_turns == 1 and fitted.prompt.images == (*images[1], *images[2])
    assert fitted.prompt.messages == (Message("system", "play"), *turns[2:])
    np.testing.assert_array_equal(fitted.token_ids, processor.encode(fitted.prompt))
    assert (fitted.token_ids == processor.image_token_id).sum() == 24

    last = processor.encode(prompt.without_first_turns(2))
    assert processor.fit(prompt, len(last)).num_cut_turns == 2
    with pytest.raises(ValueError, match=f"at most {len(last) - 1} tokens, its last turn has {len(last)}"):
        processor.fit(prompt, len(last) - 1)


def test_turns_begin_with_the_user():
    prompt = Prompt(tuple(Message(role, str(i)) for i, role in enumerate(("system", "user", "assistant", "user"))))
    assert [m.text for m in prompt.without_first_turns(1).messages] == ["0", "3"]
    assert prompt.without_first_turns(0) == prompt and prompt.num_turns == 2
    with pytest.raises(ValueError, match=re.escape("num must be in 0..1, got 2")):
        prompt.without_first_turns(2)


@pytest.mark.parametrize("token", ["<|image_pad|>", "<|video_pad|>"])
def test_placeholders_without_their_medium_are_refused(make_model, token):
    with pytest.raises(ValueError, match="placeholder"):
        VLMProcessor(str(make_model(0))).encode(Prompt((Message("user", f"What is {token}?"),)))
