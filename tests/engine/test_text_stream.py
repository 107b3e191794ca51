"""Stop strings over text that comes in pieces: where the cuts are makes no difference."""

from hypothesis import example, given
from hypothesis import strategies as st

from farthing.engine.sequence import TextStream

texts = st.text("abc", max_size=30)


def first_to_be_complete(text, stops):
    """The same by the definition: read letter by letter until a stop string is complete."""
    for end in range(len(text) + 1):
        starts = [end - len(stop) for stop in stops if text[:end].endswith(stop)]
        if starts:
            return text[: min(starts)], True
    return text, False


@given(text=texts, stops=st.lists(st.text("abc", min_size=1, max_size=5), max_size=3), data=st.data())
@example(text="abcab", stops=["abcd", "ca"], data=None)
def test_pieces_make_no_difference(text, stops, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8))) if data else [2]
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    stream = TextStream(tuple(stops))
    sent = ""
    for piece in pieces:
        sent += stream.push(piece)
        assert text.startswith(sent)
    sent += stream.flush()
    expected, is_stopped = first_to_be_complete(text, stops)
    assert (sent, stream.is_stopped) == (expected, is_stopped)


def test_no_more_is_held_back_than_needed():
    stream = TextStream(("STOP",))
    assert stream.push("hello ST") == "hello "
    assert stream.push("AR") == "STAR"
    assert stream.push("S") == ""
    assert stream.push("T") == ""
    assert stream.push("OP and more") == ""
    assert stream.is_stopped
    assert stream.push("ignored") == ""
    assert stream.flush() == ""
