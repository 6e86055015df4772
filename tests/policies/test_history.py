import pytest

from vlmgym_policies.engine import Message, Prompt
from vlmgym_policies.history import History, Turn


def question(number):
    return Prompt((Message("user", f"q{number}", (b"picture %d" % number,)),), state=number)


def chat(history, num_earlier):
    """What the prompt after so many turns holds, as role, text and number of the picture."""
    memory = history.memory()
    for number in range(num_earlier):
        memory.append(Turn(question(number), f"a{number}"))
    prompt = history.prompt(memory, question(num_earlier))
    assert prompt.state == num_earlier
    return [f"{m.text}{'*' * len(m.images)}" for m in prompt.messages], prompt


@pytest.mark.parametrize(
    ("history", "expected"),
    [
        (History(), ["q3*"]),
        (History("all"), ["q0*", "a0", "q1*", "a1", "q2*", "a2", "q3*"]),
        (History(2), ["q1*", "a1", "q2*", "a2", "q3*"]),
        (History(9, 9), ["q0*", "a0", "q1*", "a1", "q2*", "a2", "q3*"]),
        (History("all", 0), ["q0", "a0", "q1", "a1", "q2", "a2", "q3*"]),
        (History("all", 1), ["q0", "a0", "q1", "a1", "q2*", "a2", "q3*"]),
        (History(0, 1), ["q3*"]),
    ],
)
def test_prompts_hold_what_the_policy_keeps(history, expected):
    assert chat(history, 3)[0] == expected


def test_the_first_prompt_is_the_question_itself():
    history, first = History("all"), question(0)
    assert history.prompt(history.memory(), first) is first


def test_roles_alternate_and_pictures_stand_in_order():
    _, prompt = chat(History("all"), 2)
    assert [m.role for m in prompt.messages] == ["user", "assistant", "user", "assistant", "user"]
    assert prompt.images == (b"picture 0", b"picture 1", b"picture 2") and prompt.num_turns == 3


def test_a_memory_keeps_no_more_than_prompts_hold():
    memory = History(2).memory()
    for number in range(5):
        memory.append(Turn(question(number), "a"))
    assert [turn.prompt.state for turn in memory] == [3, 4]


@pytest.mark.parametrize("value", [-1, 1.5, "full", True])
def test_what_is_no_reach_is_refused(value):
    with pytest.raises(ValueError, match=r"history\.turns must be a whole number of at least 0 or all"):
        History(turns=value)
    with pytest.raises(ValueError, match=r"history\.pictures must be"):
        History("all", value)
