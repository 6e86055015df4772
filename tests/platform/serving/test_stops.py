from hypothesis import given
from hypothesis import strategies as st

from vlmgym.serving.stops import StopText

letters = st.text(alphabet="ab", max_size=8)


def tell(stops, pieces):
    text = StopText(stops)
    told = [text.add(piece) for piece in pieces]
    return [*told, text.end()], text.found


def test_what_may_begin_a_stop_is_held_back():
    assert tell(["</answer>"], ["4</ans", "wer", ">", "more"]) == (["4", "", "", "", ""], True)
    assert tell(["</answer>"], ["4</ans", "x"]) == (["4", "</ansx", ""], False)
    assert tell(["</answer>"], ["4</ans"]) == (["4", "</ans"], False)


def test_the_first_stop_counts():
    assert tell(["b", "ab"], ["xaby"]) == (["x", ""], True)


def test_without_stops_everything_passes():
    assert tell([], ["a", "", "b"]) == (["a", "", "b", ""], False)


@given(pieces=st.lists(letters, max_size=6), stops=st.lists(letters.filter(bool), max_size=3))
def test_the_text_ends_before_the_first_stop_however_it_is_cut(pieces, stops):
    whole = "".join(pieces)
    places = [whole.find(stop) for stop in stops if stop in whole]
    told, found = tell(stops, pieces)
    assert "".join(told) == (whole[: min(places)] if places else whole)
    assert found == bool(places)
