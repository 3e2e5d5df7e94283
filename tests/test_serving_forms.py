"""Names with brackets in forms, as values."""

from __future__ import annotations

import re
from typing import Any

import pytest

from videodit.errors import InputError
from videodit.serving.forms import MOST_PARTS, nested

FILE = {"id": "upload_0"}


@pytest.mark.parametrize(
    ("pairs", "values"),
    [
        ([], {}),
        ([("prompt", "[a] (b)"), ("seed", "4")], {"prompt": "[a] (b)", "seed": "4"}),
        ([("lora[][name]", "a")], {"lora": [{"name": "a"}]}),
        (
            [("lora[][name]", "a"), ("lora[][weight]", "2"), ("lora[][name]", "b"), ("lora[][weight]", "3")],
            {"lora": [{"name": "a", "weight": "2"}, {"name": "b", "weight": "3"}]},
        ),
        (  # as OpenAI's SDK sends it
            [("lora[][name]", "a"), ("lora[][name]", "b"), ("lora[][weight]", "2"), ("lora[][weight]", "3")],
            {"lora": [{"name": "a", "weight": "2"}, {"name": "b", "weight": "3"}]},
        ),
        ([("lora[][name]", "a"), ("lora[][name]", "b")], {"lora": [{"name": "a"}, {"name": "b"}]}),
        ([("lora[1][name]", "b"), ("lora[0][name]", "a")], {"lora": [{"name": "a"}, {"name": "b"}]}),
        ([("video[id]", "x"), ("video[more][at]", "1")], {"video": {"id": "x", "more": {"at": "1"}}}),
        ([("input_reference", FILE)], {"input_reference": FILE}),
        (
            [("conditions[0][content]", FILE), ("conditions[0][at]", "4"), ("conditions[1][content]", FILE)],
            {"conditions": [{"content": FILE, "at": "4"}, {"content": FILE}]},
        ),
        (
            [("conditions[][content][id]", "x"), ("conditions[][at]", "1")],
            {"conditions": [{"content": {"id": "x"}, "at": "1"}]},
        ),
        ([("tags[]", "a"), ("tags[]", "b")], {"tags": ["a", "b"]}),
        ([("s[0][0]", "0"), ("s[0][1]", "a"), ("s[1][0]", "2"), ("s[1][1]", "b")], {"s": [["0", "a"], ["2", "b"]]}),
        ([("x[999999]", "far"), ("x[7]", "near")], {"x": ["near", "far"]}),
    ],
)
def test_brackets_are_nested_values(pairs: list[tuple[str, Any]], values: dict[str, Any]) -> None:
    assert nested(pairs) == values


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([("prompt", "a"), ("prompt", "b")], "'prompt' twice"),
        ([("a[][n]", "1"), ("a[][n]", "2"), ("a[][w]", "1")], "do not have the same fields"),
        ([("s[][]", "0"), ("s[][]", "a")], "list of lists"),
        ([("a[0]", "1"), ("a[]", "2")], "with other brackets"),
        ([("a[]", "1"), ("a[1]", "2")], "with other brackets"),
        ([("a[x]", "1"), ("a[1]", "2")], "with other brackets"),
        ([("lora", "[]"), ("lora[][name]", "a")], "with other brackets"),
        ([("lora[][name]", "a"), ("lora", "[]")], "twice"),
        ([("lora[][name]", "a"), ("lora[name]", "a")], "with other brackets"),
        ([("lora[name]", "a"), ("lora[][name]", "a")], "with other brackets"),
        ([("lora[name]", "a"), ("lora[name][x]", "a")], "with other brackets"),
        ([("file", FILE), ("file[id]", "a")], "twice|with other brackets"),
        ([("a]b", "1")], "names are like"),
        ([("[a]", "1")], "names are like"),
        ([("", "1")], "names are like"),
        ([("a" + "[x]" * 7, "1")], "names are like"),
        ([(f"a{i}", "1") for i in range(MOST_PARTS + 1)], "at most"),
    ],
)
def test_other_names_are_refused(pairs: list[tuple[str, Any]], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        nested(pairs)
    assert re.search(r"[\r\n]", str(caught.value)) is None
