"""What a front end may say, and what is refused of it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbloader._views.messages import Message, RefusedError, read_message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"kind": "drawn"}, Message("drawn")),
        ({"kind": "drawn", "language": "ko-KR"}, Message("drawn", language="ko-KR")),
        ({"kind": "cancel", "number": 3}, Message("cancel", number=3)),
        ({"kind": "unload"}, Message("unload")),
        ({"kind": "answer", "number": 7, "question": 2, "choice": 1}, Message("answer", 7, 2, 1)),
        ({"kind": "plan", "choices": {"dtype": "float32"}}, Message("plan", choices={"dtype": "float32"})),
        ({"kind": "load", "choices": {}}, Message("load", choices={})),
        ({"kind": "download", "choices": {}}, Message("download", choices={})),
        ({"kind": "clear_history"}, Message("clear_history")),
    ],
)
def test_what_a_panel_says(content: dict[str, Any], message: Message) -> None:
    assert read_message(content) == message


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "its kind of type NoneType is unknown"),
        ([], "its kind of type NoneType is unknown"),
        ("cancel", "its kind of type NoneType is unknown"),
        ({}, "its kind of type NoneType is unknown"),
        ({"kind": "drop"}, "its kind 'drop' is unknown"),
        ({"kind": ["cancel"]}, r"its kind \['cancel'\] is unknown"),
        ({"kind": "x" * 5_000_000}, "its kind 'xxx"),
        ({"kind": "unload", "path": "/etc/passwd"}, r"the fields of 'unload' are \['path'\]"),
        ({"kind": "load", "choices": {}, "model": "/etc"}, "the fields of 'load'"),
        ({"kind": "load"}, r"the fields of 'load' are \[\]"),
        ({"kind": "answer"}, "the fields of 'answer'"),
        ({"kind": "answer", "number": 7, "question": 2, "choice": "0"}, "choice has the wrong type str"),
        ({"kind": "answer", "number": 7, "question": 2, "choice": True}, "choice has the wrong type bool"),
        ({"kind": "answer", "number": 7, "question": 2, "choice": None}, "choice has the wrong type NoneType"),
        ({"kind": "cancel", "number": 1.5}, "number has the wrong type float"),
        ({"kind": "cancel"}, r"the fields of 'cancel' are \[\]"),
        ({"kind": "drawn", "language": "k" * 65}, "its language name is too long"),
        ({"kind": "plan", "choices": [["dtype", "float32"]]}, "choices has the wrong type list"),
        ({"kind": "plan", "choices": {"dtype": 32}}, "its value for 'dtype' is not a string"),
        ({"kind": "plan", "choices": {"variant": "x" * 5_000_000}}, "its value for 'variant'"),
        ({"kind": "plan", "choices": {str(number): "" for number in range(10_000)}}, "it has too many choices .10000"),
    ],
)
def test_what_nobody_clicks_is_refused_in_few_words(content: Any, reason: str) -> None:
    with pytest.raises(RefusedError, match=reason) as info:
        read_message(content)
    assert len(str(info.value)) < 300


def test_buffers_are_refused() -> None:
    with pytest.raises(RefusedError, match="it has 1 buffers"):
        read_message({"kind": "unload"}, [memoryview(b"")])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
PARTS = st.sampled_from(["kind", "number", "choice", "choices", "path"])
KINDS = st.sampled_from(["drawn", "cancel", "unload", "answer", "plan", "load", "download", "clear_history"])


@given(JSON | st.dictionaries(PARTS, KINDS | JSON))
def test_whatever_is_sent_is_read_or_refused(content: Any) -> None:
    try:
        message = read_message(content)
    except RefusedError:
        return
    assert message.number is None or type(message.number) is int
    assert type(message.choice) is int
    assert all(isinstance(part, str) for item in message.choices.items() for part in item)
