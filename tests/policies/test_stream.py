"""What is told of a response while it grows is never taken back, and never holds a part of a character."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from vlmgym_policies.engines._stream import TextStream
from vlmgym_policies.processing import VLMProcessor


@pytest.fixture(scope="module")
def processor(make_model):
    return VLMProcessor(str(make_model(0)))


def tell(processor, token_ids, step=1):
    stream = TextStream(processor)
    told = [stream.add(token_ids[start : start + step]) for start in range(0, len(token_ids), step)]
    return told, stream.end(processor.decode(token_ids))


@given(data=st.data())
def test_the_deltas_make_the_text_whatever_the_tokens_are(processor, data):
    tokens = st.integers(0, len(processor.tokenizer) - 1) | st.sampled_from(sorted(processor.byte_token_ids))
    token_ids = data.draw(st.lists(tokens, max_size=40))
    told, rest = tell(processor, token_ids, data.draw(st.integers(1, 3)))
    assert "".join(told) + rest == processor.decode(token_ids)


@given(text=st.text(max_size=30))
def test_no_delta_of_a_text_holds_a_part_of_a_character(processor, text):
    token_ids = processor.tokenizer(text, add_special_tokens=False)["input_ids"]
    whole = processor.decode(token_ids)
    told, rest = tell(processor, token_ids)
    assert "".join(told) + rest == whole
    if "\N{REPLACEMENT CHARACTER}" not in whole:
        assert not any("\N{REPLACEMENT CHARACTER}" in delta for delta in told)


def test_bytes_are_held_back_until_the_next_piece(processor):
    token_ids = [processor.tokenizer.convert_tokens_to_ids(token) for token in ("<0xC3>", "<0xA9>", "|", "<0xC3>")]
    assert tell(processor, token_ids) == (
        ["", "", "\N{LATIN SMALL LETTER E WITH ACUTE}|", ""],
        "\N{REPLACEMENT CHARACTER}",
    )


def test_a_byte_that_fits_nowhere_spoils_those_before_it(processor):
    token_ids = [processor.tokenizer.convert_tokens_to_ids(token) for token in ("<0xC3>", "<0xA9>", "<0xFF>")]
    assert tell(processor, token_ids) == (["", "", ""], 3 * "\N{REPLACEMENT CHARACTER}")


def test_what_is_not_spelled_is_not_told(processor):
    told, rest = tell(processor, [processor.pad_token_id, *processor.spell_response("|").token_ids.tolist()])
    assert (told, rest) == (["", "|", ""], "")


def test_equal_processors_have_equal_digests(make_model, processor, tmp_path):
    assert VLMProcessor(str(make_model(1))).digest == processor.digest
    processor.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_bytes((make_model(0) / "config.json").read_bytes())
    (tmp_path / "generation_config.json").write_bytes((make_model(0) / "generation_config.json").read_bytes())
    assert VLMProcessor(str(tmp_path)).digest == processor.digest
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    tokenizer.add_tokens(["more"])
    tokenizer.save_pretrained(tmp_path)
    assert VLMProcessor(str(tmp_path)).digest != processor.digest
