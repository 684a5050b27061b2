"""Replies as typed values, in the shapes of RESP2 and RESP3."""

from __future__ import annotations

import pytest

from trio_sentinel_scan._core.replies import as_fields, as_list, as_text


@pytest.mark.parametrize(
    "value, text", [(b"abc", "abc"), ("abc", "abc"), (b"\xff", "\ufffd"), (7, "7"), (None, "None")], ids=repr
)
def test_text_is_text_whether_or_not_it_was_decoded(value: object, text: str) -> None:
    """What is no UTF-8 is shown as well as it can be."""
    assert as_text(value) == text


def test_a_list_is_a_list_and_nothing_else_is() -> None:
    """A map or an error in a list's place is not taken for one."""
    assert as_list([1]) == [1]
    assert as_list([]) == []
    assert [as_list(value) for value in ((1,), {1: 2}, b"ab", None, ValueError())] == [None] * 5


@pytest.mark.parametrize(
    "reply, fields",
    [
        ({b"role": b"master", b"proto": 3}, {"role": "master", "proto": "3"}),
        ([b"role", b"master", b"proto", 3], {"role": "master", "proto": "3"}),
        (["role", "master", "odd"], {"role": "master"}),
        ([], {}),
        (None, {}),
        (ValueError(), {}),
        (b"role", {}),
    ],
    ids=repr,
)
def test_fields_are_the_same_from_a_map_and_from_a_flat_list(reply: object, fields: dict[str, str]) -> None:
    """RESP3 and RESP2 say the same things."""
    assert as_fields(reply) == fields
