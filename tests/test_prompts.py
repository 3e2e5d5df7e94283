"""What a text must be to be read, and its white space."""

from __future__ import annotations

from pathlib import Path

import pytest

from videodit import VideoDiTPipeline
from videodit.cli.main import main
from videodit.errors import InputError
from videodit.prompts import check_text, collapse, is_blank
from videodit.quotations import with_quoted_letters

SAID = "a red ball bounces on the grass"


@pytest.mark.parametrize("blank", ["\n", "\r\n", "\t", "  ", "\u00a0", "\u200b", " \ufeff", "\u3000", "\u2028"])
def test_white_space_of_any_kind_is_one_blank(blank: str) -> None:
    pipe = VideoDiTPipeline.from_pretrained("mini")
    text = "\ufeff" + SAID.replace(" ", blank) + blank
    assert collapse(text) == SAID
    assert pipe.text([text]).embeds.equal(pipe.text([SAID]).embeds)
    assert pipe.text_encoder_notices(text) == []


def test_unknown_characters_are_named() -> None:
    pipe = VideoDiTPipeline.from_pretrained("mini")
    (notice,) = pipe.text_encoder_notices("a red ball ☃ bounces\x07")
    assert "☃" in notice
    assert "U+0007" in notice


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ball " * 4001, "has 20,005 characters; the limit prompt_characters is 20,000: raise it with --limit"),
        ("a \ud800 ball", r"not valid Unicode: character 3 is half of a surrogate pair, U\+D800"),
        ("a\0ball", "holds a NUL character, number 2"),
    ],
)
def test_texts_that_no_tokenizer_should_see(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        check_text(text)
    assert main(["generate", text, "-o", str(tmp_path / "a.mp4"), "--dry-run"]) == 2
    assert main(["generate", SAID, "--negative", text, "-o", str(tmp_path / "a.mp4"), "--dry-run"]) == 2
    told = capsys.readouterr().err
    assert "error: the prompt" in told
    assert "error: the negative prompt" in told


def test_a_huge_caption_is_refused_by_its_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.mp4").write_bytes(b"clip")
    (tmp_path / "a.txt").write_text("ball " * 100_000, encoding="utf-8")
    assert main(["data", "scan", str(tmp_path)]) == 2
    assert "a.txt: the caption has 500,000 bytes; the limit prompt_characters is 20,000" in capsys.readouterr().err


def test_nothing_but_blanks_is_blank() -> None:
    assert is_blank(" \n\u200b\ufeff")
    assert not is_blank("a")


# --- words in quotation marks --------------------------------------------------------------------

QUOTED = [
    "", "a", "a 'b c' d", "it's \"x y\" ok", "don't write “héllo’s” now ‘abc’", "''", "\"it's\" a", 'a "b',
    "x 'y\nz' \"q 'r' s\"", "“a” and “b”",
]  # fmt: skip


@pytest.mark.parametrize("prompt", QUOTED)
def test_quoted_words_are_taken_apart_as_in_diffusers(prompt: str) -> None:
    from diffusers.pipelines.longcat_image.pipeline_longcat_image import split_quotation

    expected = [part for text, quoted in split_quotation(prompt) for part in (text if quoted else [text])]
    assert with_quoted_letters(prompt) == expected


def test_several_apostrophes_stay_where_they_are() -> None:
    """diffusers 0.42.1 writes one of the words in the place of the others."""
    assert with_quoted_letters("it isn't 'no', and it's don't") == ["it isn't ", "'", "n", "o", "'", ", and it's don't"]
    assert with_quoted_letters("'tis what we don't say") == ["'tis what we don't say"]
