"""JSON from disk: what no reader could do anything with is refused when it is read."""

from __future__ import annotations

import pytest

from ser_batch.kinds import AMOUNT, TEXT, problem_with, read_json


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a": ' + b"[" * 60 + b"]" * 60 + b"}", "a is nested too deeply"),
        (b'{"a": {"b": 1, "b": 2}}', 'the field "b" is there twice'),
        (b'{"a": {"b": NaN}}', "a.b holds the number NaN"),
        (b'{"a": 1e999}', "a holds the number Infinity"),
        (b'{"a": ' + b"9" * 400 + b"}", "a holds the number 999"),
        (b'{"a": ' + b"9" * 5_000 + b"}", "Exceeds the limit"),
        (b'{"a": "\\u0000"}', "a holds text that is no text"),
        (b'{"\\ud800": 1}', "is no name of a field"),
        (b'"\\ud800"', "it holds text that is no text"),
        (b'"\xff"', "codec can't decode"),
        (b"{", "Expecting"),
    ],
)
def test_what_nobody_could_use_is_refused(data: bytes, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        read_json(data)


def test_names_that_are_not_utf_8_are_text() -> None:
    assert read_json(r'{"root": "/\udce9", "n": -1.5}') == {"root": "/\udce9", "n": -1.5}


def test_problems_name_the_field() -> None:
    fields = {"a": TEXT, "b.c": AMOUNT}
    assert problem_with({"a": "x", "b": {"c": 0}}, fields, fields) == ""
    assert problem_with({}, fields) == ""
    assert problem_with({"a": "x", "b": 7}, fields, fields) == "b.c is missing"
    assert problem_with({"b": {"c": True}}, fields) == "b.c must be a number from 0, not true"
