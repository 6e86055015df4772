"""What is asked of an engine, and what is refused in OpenAI's words."""

import base64
import io
import json

import pytest
from PIL import Image

from vlmgym.serving.errors import RequestError
from vlmgym.serving.requests import WITHOUT_EFFECT, read_question
from vlmgym_policies.engine import Message, Sampling


def refusal(body, settings):
    with pytest.raises(RequestError) as refused:
        read_question(body, settings)
    return refused.value


def test_a_request_becomes_a_question(body, settings, data_uri):
    content = body(temperature=0.5, max_tokens=7, n=2, stop="x", stream=True, stream_options={"include_usage": True})
    question = read_question(content, settings)
    picture = base64.b64decode(data_uri().partition(",")[2])
    assert question.prompt.messages == (Message("user", "What is this?", (picture,)),)
    assert question.sampling == Sampling(temperature=0.5, max_tokens=7, seed=3)
    assert (question.num_choices, question.stops, question.is_streamed, question.wants_usage) == (2, ("x",), True, True)


def test_what_a_request_leaves_out_is_openais_default_or_the_servers_bound(body, settings):
    question = read_question(body(), settings)
    assert (question.sampling.temperature, question.num_choices, question.stops) == (1.0, 1, ())
    assert (question.is_streamed, question.wants_usage) == (False, False)
    seeds = {read_question(body(seed=None), settings).sampling.seed for _ in range(3)}
    assert len(seeds) == 3
    assert read_question(body(seed=-1), settings).sampling.seed == 2**64 - 1


@pytest.mark.parametrize(
    ("asked", "bound"),
    [({}, 24), ({"max_tokens": 5}, 5), ({"max_completion_tokens": 6}, 6), ({"max_tokens": 8192}, 24)],
)
def test_a_response_is_as_long_as_the_request_and_the_server_allow(body, settings, asked, bound):
    assert read_question(body(**asked), settings).sampling.max_tokens == bound


def test_pictures_come_before_the_text_and_texts_are_lines(settings, data_uri):
    first, second = data_uri(width=2), data_uri(width=5)
    content = [
        {"type": "text", "text": "a"},
        {"type": "image_url", "image_url": {"url": first, "detail": "auto"}},
        {"type": "text", "text": "b"},
        {"type": "image_url", "image_url": {"url": second}},
    ]
    messages = [
        {"role": "developer", "content": "rules"},
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": [{"type": "text", "text": "hi"}]},
        {"role": "user", "content": content},
    ]
    found = read_question(json.dumps({"model": "m", "messages": messages}).encode(), settings).prompt.messages
    pictures = tuple(base64.b64decode(uri.partition(",")[2]) for uri in (first, second))
    assert found == (
        Message("system", "rules"),
        Message("user", "hello"),
        Message("assistant", "hi"),
        Message("user", "a\nb", pictures),
    )


def test_parameters_without_effect_are_taken(body, settings):
    assert read_question(body(**WITHOUT_EFFECT, user="someone", logit_bias=None), settings)


@pytest.mark.parametrize(
    ("changes", "code", "param"),
    [
        ({"top_p": 0.9}, "unsupported_parameter", "top_p"),
        ({"tools": [{"type": "function"}]}, "unsupported_parameter", "tools"),
        ({"logprobs": True}, "unsupported_parameter", "logprobs"),
        ({"response_format": {"type": "json_object"}}, "unsupported_parameter", "response_format"),
        ({"model": None}, "invalid_value", "model"),
        ({"messages": []}, "invalid_value", "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "invalid_value", "messages.0.role"),
        ({"messages": [{"role": "user", "content": None}]}, "invalid_value", "messages.0.content"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "invalid_value", "messages.0.content.0.text"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": 5}}]}]},
            "invalid_value",
            "messages.0.content.0.image_url.url",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]},
            "invalid_value",
            "messages.0.content.0",
        ),
        ({"messages": [{"role": "user", "content": "x", "name": "y"}]}, "unsupported_parameter", "messages.0.name"),
        (
            {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]},
            "invalid_value",
            "messages",
        ),
        ({"temperature": -0.1}, "invalid_value", "temperature"),
        ({"temperature": 2.1}, "invalid_value", "temperature"),
        ({"temperature": "0"}, "invalid_value", "temperature"),
        ({"n": 0}, "invalid_value", "n"),
        ({"n": 5}, "invalid_value", "n"),
        ({"max_tokens": 0}, "invalid_value", "max_tokens"),
        ({"max_tokens": 5, "max_completion_tokens": 5}, "invalid_value", "max_tokens"),
        ({"stop": [""]}, "invalid_value", "stop"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "invalid_value", "stop"),
        ({"seed": 1.5}, "invalid_value", "seed"),
        ({"stream": "yes"}, "invalid_value", "stream"),
    ],
)
def test_what_cannot_be_answered_is_refused_by_name(body, settings, changes, code, param):
    error = refusal(body(**changes), settings)
    assert (error.status, error.code, error.param) == (400, code, param)
    assert set(error.body["error"]) == {"message", "type", "param", "code"}
    assert error.body["error"]["type"] == "invalid_request_error"


def test_an_unknown_model_is_not_found(body, settings):
    error = refusal(body(model="gpt-4o"), settings)
    assert (error.status, error.code, error.message) == (
        404,
        "model_not_found",
        "the model 'gpt-4o' does not exist, there is 'm'",
    )


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[1]", b"null"])
def test_what_is_no_json_object_is_refused(settings, content):
    error = refusal(content, settings)
    assert (error.status, error.code) == (400, "invalid_json")


def with_image(body, url, num=1):
    content = [{"type": "image_url", "image_url": {"url": url}}] * num
    return body(messages=[{"role": "user", "content": content}])


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("https://example.org/cat.png", "must be a data URI"),
        ("data:text/plain;base64,aGk=", "must be a data URI"),
        ("data:image/png;base64,not base64!", "no valid base64"),
        ("data:image/png;base64,aGVsbG8=", "that can be read"),
        ("data:image/png;base64,", "that can be read"),
    ],
)
def test_what_is_no_picture_is_refused(body, settings, url, message):
    error = refusal(with_image(body, url), settings)
    assert (error.status, error.code, error.param) == (400, "invalid_image", "messages.0.content.0.image_url")
    assert message in error.message


def test_a_broken_picture_is_refused(body, settings, data_uri):
    whole = base64.b64decode(data_uri(width=60, height=60).partition(",")[2])
    for broken in (whole[: len(whole) // 2], whole[:60] + bytes(40) + whole[100:]):
        error = refusal(with_image(body, data_uri(broken)), settings)
        assert (error.status, error.code) == (400, "invalid_image") and "broken" in error.message


def test_a_picture_with_too_many_pixels_is_refused_before_it_is_decoded(body, settings, data_uri, monkeypatch):
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("decoded"))
    error = refusal(with_image(body, data_uri(width=101, height=100)), settings)
    assert error.message == "a picture must have at most 10000 pixels, got 101 x 100"


def test_too_many_pictures_are_refused(body, settings, data_uri):
    assert read_question(with_image(body, data_uri(), 2), settings)
    error = refusal(with_image(body, data_uri(), 3), settings)
    assert error.message == "a request must have at most 2 pictures, got 3"


def test_pictures_of_others_than_the_user_are_refused(body, settings, data_uri):
    content = [{"type": "image_url", "image_url": {"url": data_uri()}}]
    messages = [{"role": "system", "content": content}, {"role": "user", "content": "x"}]
    assert refusal(body(messages=messages), settings).param == "messages.0.content"


def test_other_formats_become_png(body, settings, data_uri):
    question = read_question(with_image(body, data_uri(kind="GIF")), settings)
    with Image.open(io.BytesIO(question.prompt.images[0])) as image:
        assert (image.format, image.mode, image.size) == ("PNG", "RGB", (4, 3))
