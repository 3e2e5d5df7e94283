r"""The syntax of prompts: weights, alternatives, wildcards and LoRAs. Reads text alone, and loads no library.

==================== ==================================================================================
``(a red ball:1.3)``   these words count 1.3 times; weights inside weights multiply
``{red|blue|green}``   one of these, drawn from the clip's seed
``__color__``          a line of ``color.txt`` in a folder of wildcards, drawn by the seed, too
``<lora:name:0.8>``    a LoRA out of a folder of LoRAs, and its weight
``\(``                 the character itself; so for all of ``( ) { } | < > [ ] : _ \``
==================== ==================================================================================

Wildcards and LoRAs are called by names of letters, digits, ``_``, ``.`` and ``-``, which are looked up among the
entries of folders that the user has configured. No name is ever made into a path or a hub id.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from videodit.errors import InputError
from videodit.prompts import check_text
from videodit.user_folders import data_folder

Span = tuple[int, int, float]
"""First character, the one behind the last, and the weight of a part of a text."""

MAX_TEXT_WEIGHT = 10.0
MAX_LORA_WEIGHT = 100.0
LORA_FOLDER, WILDCARDS = "VIDEODIT_LORA_FOLDER", "VIDEODIT_WILDCARDS"
_NAME = re.compile(r"[\w.-]+")
_WILDCARD = re.compile(r"__(?=[^\s_])([^\s(){}|<>]*?[^\s_(){}|<>])__")
_CALL = re.compile(r"<([A-Za-z]+):")
_ESCAPED = re.compile(r"\\([(){}|<>\[\]:_\\])")
_WEIGHT = re.compile(r"(?<!\\):\s*([^\s:]+)\s*$")
_NUMBER = re.compile(r"[-+]?(?:\d{1,6}(?:\.\d{0,12})?|\.\d{1,12})", re.ASCII)
_DEEPEST, _MOST_DRAWS, _LARGEST_FILE = 16, 1000, 10_000_000


@dataclass(frozen=True)
class PromptFolders:
    """Where names in prompts are looked up.

    Attributes:
        loras: folders of LoRAs.
        wildcards: folders of text files, a line to each alternative.
    """

    loras: tuple[Path, ...]
    wildcards: tuple[Path, ...]


@dataclass(frozen=True)
class Expanded:
    """A prompt as the model reads it.

    Attributes:
        text: without any syntax.
        weights: of its parts; what is in none of them counts once.
        loras: file or folder and weight of those that it calls.
        notices: what a user should know.
    """

    text: str
    weights: tuple[Span, ...] = ()
    loras: tuple[tuple[Path, float], ...] = ()
    notices: tuple[str, ...] = ()


_folders: PromptFolders | None = None


def current_folders() -> PromptFolders:
    """The folders that hold in this process: of the innermost :func:`use_folders`, or those of the environment
    (``VIDEODIT_LORA_FOLDER``, ``VIDEODIT_WILDCARDS``; several as in ``PATH``), or ``loras`` and ``wildcards`` in the
    user's data folder."""
    return (
        _folders if _folders is not None else PromptFolders(_from(LORA_FOLDER, "loras"), _from(WILDCARDS, "wildcards"))
    )


def _from(variable: str, name: str) -> tuple[Path, ...]:
    named = tuple(Path(part).expanduser() for part in os.environ.get(variable, "").split(os.pathsep) if part)
    return named or (data_folder() / name,)


@contextlib.contextmanager
def use_folders(*, loras: Sequence[Path] = (), wildcards: Sequence[Path] = ()) -> Iterator[None]:
    """Have other folders hold inside the ``with`` block; an empty sequence leaves those that hold already."""
    global _folders
    before, now = _folders, current_folders()
    _folders = replace(now, loras=tuple(loras) or now.loras, wildcards=tuple(wildcards) or now.wildcards)
    try:
        yield
    finally:
        _folders = before


def check_spans(text: str, spans: Sequence[Span], what: str = "the prompt") -> None:
    """See that weights are of parts of a text, in order, and sane.

    Raises:
        InputError: another form, a part outside of the text, or parts that overlap.
    """
    end = 0
    for span in spans:
        if (
            not isinstance(span, (list, tuple))
            or [type(part) for part in span[:2]] != [int, int]
            or len(span) != 3
            or type(span[2]) not in (int, float)
            or not end <= span[0] < span[1] <= len(text)
            or not abs(span[2]) <= MAX_TEXT_WEIGHT  # false for NaN, too
        ):
            shown = repr(span)[:100]
            raise InputError(
                f"a weight of {what} is {shown}; it must be two places in its {len(text)} characters, in order, and a "
                f"number from -{MAX_TEXT_WEIGHT:g} to {MAX_TEXT_WEIGHT:g}"
            )
        end = span[1]


def expand(text: str, rng: random.Random | None, *, what: str = "the prompt") -> Expanded:
    """Read a prompt's syntax: draw alternatives, look up names, note weights.

    Args:
        text: as it was typed.
        rng: of the clip's seed; ``None`` where there is no seed, and nothing can be drawn.
        what: the text is, for messages.

    Raises:
        InputError: unbalanced brackets, a name that is unknown or none, a weight that is no number or out of range, or
            something to draw without a seed; with its place in the text.
    """
    check_text(text, what)
    tree = _Parser(text, what).parse()
    return _Expansion(rng, what, current_folders()).of(tree)


def generator(seed: int | None) -> random.Random | None:
    """What a clip's prompts are drawn with: the same for a seed on every machine and release of Python."""
    return None if seed is None else random.Random(f"prompt {seed}")


# ---- parsing -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Weighted:
    nodes: list[_Node]
    weight: float


@dataclass(frozen=True)
class _Choice:
    options: list[list[_Node]]


@dataclass(frozen=True)
class _Wildcard:
    name: str


@dataclass(frozen=True)
class _LoRA:
    name: str
    weight: float


@dataclass(frozen=True)
class _Notice:
    text: str


_Node = str | _Weighted | _Choice | _Wildcard | _LoRA | _Notice  # a str has its escapes still in it


class _Parser:
    """Recursive descent over one text."""

    def __init__(self, text: str, what: str) -> None:
        self.text, self.what, self.at = text, what, 0

    def parse(self) -> list[_Node]:
        return self._sequence("", 0)

    def _fail(self, problem: str, at: int | None = None) -> InputError:
        at = self.at if at is None else at
        return InputError(f"{self.what}, character {at + 1}: {problem}")

    def _sequence(self, closing: str, depth: int) -> list[_Node]:
        """Up to a closing bracket, or a ``|`` that separates alternatives, which is left to be read."""
        if depth > _DEEPEST:
            raise self._fail(f"brackets are nested more than {_DEEPEST} deep")
        nodes: list[_Node] = []
        plain = ""
        while self.at < len(self.text):
            character = self.text[self.at]
            if character in closing or (character == "|" and closing == "}"):
                break
            start, node = self.at, None
            if _ESCAPED.match(self.text, self.at):
                plain += self.text[self.at : self.at + 2]
                self.at += 2
                continue
            if character == "(":
                node = self._parenthesis(depth)
            elif character == "{":
                node = self._braces(depth)
            elif character == "[":
                nodes.append(_Notice("square brackets are read as they stand; (word:0.9) weakens a word"))
            elif character in ")}":
                raise self._fail(f"{character} closes nothing; write \\{character} for the character itself")
            elif character == "<":
                node = self._call()
            elif self.text.startswith("__", self.at):
                node = self._wildcard()
            if node is None:
                plain += self.text[start]
                self.at = start + 1
                continue
            nodes += [plain, *node]
            plain = ""
        return [*nodes, plain]

    def _parenthesis(self, depth: int) -> list[_Node]:
        start = self.at
        self.at += 1
        inner = self._sequence(")", depth + 1)
        if self.at >= len(self.text):
            raise self._fail("( is not closed; write \\( for the character itself", start)
        self.at += 1
        last = inner[-1]
        assert isinstance(last, str)
        match = _WEIGHT.search(last)
        if match is None or not _looks_like_a_number(match[1]):
            told = "parentheses without a weight are read as they stand; (word:1.1) gives one"
            return [_Notice(told), "\\(", *inner, "\\)"]
        inner[-1] = last[: match.start()]
        weight = self._number(match[1], MAX_TEXT_WEIGHT, start, "a weight")
        if not any(not isinstance(node, str) or node.strip() for node in inner):
            raise self._fail("( has a weight and no words", start)
        return [_Weighted(inner, weight)]

    def _braces(self, depth: int) -> list[_Node]:
        start, options = self.at, []
        while True:
            self.at += 1
            options.append(self._sequence("}", depth + 1))
            if self.at >= len(self.text):
                raise self._fail("{ is not closed; write \\{ for the character itself", start)
            first = options[-1][0]
            if isinstance(first, str) and re.search(r"^\s*[\d.]+::|\$\$", first):
                raise self._fail("{ has alternatives with numbers (:: or $$), which are not known", start)
            if self.text[self.at] == "}":
                break
        self.at += 1
        if len(options) == 1:
            raise self._fail("{ has no alternatives; write {a|b}, or \\{ for the character itself", start)
        return [_Choice(options)]

    def _call(self) -> list[_Node] | None:
        start, match = self.at, _CALL.match(self.text, self.at)
        if match is None:
            return None  # a character like any other
        end = self.text.find(">", self.at)
        if end < 0:
            raise self._fail("< is not closed; write \\< for the character itself")
        content = self.text[self.at + 1 : end]
        kind, name, *rest = content.split(":")
        if kind.lower() != "lora" or len(rest) > 1:
            raise self._fail(f"<{content}> is unknown; it must be <lora:NAME:WEIGHT>, and \\< for the character itself")
        self._check_name(name, "a LoRA")
        self.at = end + 1
        weight = self._number(rest[0].strip(), MAX_LORA_WEIGHT, start, "the weight of a LoRA") if rest else 1.0
        return [_LoRA(name, weight)]

    def _wildcard(self) -> list[_Node] | None:
        match = _WILDCARD.match(self.text, self.at)
        if match is None:
            if re.match(r"__[^\W_]", self.text[self.at :]) and (self.at == 0 or self.text[self.at - 1].isspace()):
                raise self._fail("__ is not closed; a wildcard is written __name__, and \\_ is the character itself")
            return None
        self._check_name(match[1], "a wildcard")
        self.at = match.end()
        return [_Wildcard(match[1])]

    def _check_name(self, name: str, what: str) -> None:
        if _NAME.fullmatch(name) is None or name.startswith("."):
            raise self._fail(
                f"the name of {what} is {name!r}; it must be letters, digits, '_', '.' and '-', and is no path"
            )

    def _number(self, text: str, most: float, at: int, what: str) -> float:
        if _NUMBER.fullmatch(text) is None or not abs(float(text)) <= most:
            raise self._fail(f"{what} is {text!r}; it must be a number from -{most:g} to {most:g}", at)
        return float(text)


def _looks_like_a_number(text: str) -> bool:
    return re.match(r"[-+.]*\d|[-+]?(nan|inf(inity)?)$", text, re.IGNORECASE) is not None


# ---- expanding -----------------------------------------------------------------------------------


class _Expansion:
    """The text of a tree, character by character with its weight."""

    def __init__(self, rng: random.Random | None, what: str, folders: PromptFolders) -> None:
        self.rng, self.what, self.folders, self.draws = rng, what, folders, 0
        self.pieces: list[tuple[str, float]] = []
        self.loras: list[tuple[Path, float]] = []
        self.notices: dict[str, None] = {}
        self.after_call = False  # a LoRA leaves no blank beside it where there was one on each side

    def of(self, tree: list[_Node]) -> Expanded:
        self._check(tree)
        self._read(tree, 1.0, 0)
        if self.loras:
            self._trim_end()
        text, spans = "", list[Span]()
        for piece, weight in self.pieces:
            if weight != 1 and piece:
                if spans and spans[-1][1] == len(text) and spans[-1][2] == weight:
                    spans[-1] = (spans[-1][0], len(text) + len(piece), weight)
                else:
                    spans.append((len(text), len(text) + len(piece), weight))
            text += piece
        check_text(text, self.what)
        check_spans(text, spans, self.what)
        return Expanded(text, tuple(spans), tuple(self.loras), tuple(self.notices))

    def _check(self, tree: list[_Node]) -> None:
        """See that all names are known, those of alternatives that are not drawn, too."""
        for node in tree:
            match node:
                case _Wildcard(name):
                    self._lines(name)
                case _LoRA(name, _):
                    self._find_lora(name)
                case _Weighted(nodes, _):
                    self._check(nodes)
                case _Choice(options):
                    for option in options:
                        self._check(option)

    def _read(self, tree: list[_Node], weight: float, depth: int) -> None:
        for node in tree:
            match node:
                case str():
                    self._write(_ESCAPED.sub(r"\1", node), weight)
                case _Weighted(nodes, own):
                    self._read(nodes, weight * own, depth)
                case _Choice(options):
                    self._read(options[self._draw(len(options))], weight, depth)
                case _Wildcard(name):
                    self._read_line(name, weight, depth)
                case _LoRA(name, own):
                    self.loras.append((self._find_lora(name), own))
                    self.after_call = not self.pieces or self.pieces[-1][0][-1:].isspace()
                case _Notice(text):
                    self.notices[text] = None

    def _write(self, text: str, weight: float) -> None:
        if self.after_call:
            text = text.lstrip()
        if text:
            self.after_call = False
            self.pieces.append((text, weight))

    def _trim_end(self) -> None:
        while self.pieces:
            text, weight = self.pieces.pop()
            if text := text.rstrip():
                self.pieces.append((text, weight))
                return

    def _draw(self, count: int) -> int:
        if self.rng is None:
            raise InputError(f"{self.what} has alternatives, which are drawn from the clip's seed; pass a seed")
        self.draws += 1
        if self.draws > _MOST_DRAWS:
            raise InputError(f"{self.what} draws more than {_MOST_DRAWS} times; do its wildcards call each other?")
        return int(self.rng.random() * count)

    def _read_line(self, name: str, weight: float, depth: int) -> None:
        if depth >= _DEEPEST:
            raise InputError(f"wildcard {name!r} is {_DEEPEST} wildcards deep; do they call each other?")
        lines = self._lines(name)
        number, line = lines[self._draw(len(lines))]
        check_text(line, f"{name}.txt, line {number}")
        tree = _Parser(line, f"{name}.txt, line {number}").parse()
        self._check(tree)
        self._read(tree, weight, depth + 1)

    def _lines(self, name: str) -> list[tuple[int, str]]:
        """Number and text of a wildcard's lines; blank ones and those that begin with ``#`` do not count."""
        path = _entry(self.folders.wildcards, name, (".txt",))
        if path is None:
            raise InputError(_unknown("wildcard", name, self.folders.wildcards, (".txt",), "--wildcards", WILDCARDS))
        try:
            if (size := path.stat().st_size) > _LARGEST_FILE:
                raise InputError(f"wildcard {str(path)!r} has {size:,} bytes; at most {_LARGEST_FILE:,} are read")
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise InputError(f"cannot read wildcard {str(path)!r}: {reason}") from error
        stripped = ((number, line.strip()) for number, line in enumerate(lines, start=1))
        found = [(number, line) for number, line in stripped if line and not line.startswith("#")]
        if not found:
            raise InputError(f"wildcard {str(path)!r} is empty; it must hold an alternative a line")
        return found

    def _find_lora(self, name: str) -> Path:
        path = _entry(self.folders.loras, name, (".safetensors", ""))
        if path is None:
            kinds = (".safetensors", "")
            raise InputError(_unknown("LoRA", name, self.folders.loras, kinds, "--lora-folder", LORA_FOLDER))
        return path


def _entries(folders: Sequence[Path], suffixes: Sequence[str]) -> dict[str, Path]:
    """What folders hold, by the names that prompts call it: files of a suffix, and folders where ``""`` is one."""
    found: dict[str, Path] = {}
    for folder in folders:
        try:
            listed = sorted(folder.iterdir())
        except OSError:
            continue
        for suffix in suffixes:
            for path in listed:
                name = path.name.removesuffix(suffix) if suffix else path.name
                fits = path.is_dir() if not suffix else path.name.endswith(suffix) and path.is_file()
                if fits and _NAME.fullmatch(name) is not None and not name.startswith("."):
                    found.setdefault(name, path)
    return found


def _entry(folders: Sequence[Path], name: str, suffixes: Sequence[str]) -> Path | None:
    return _entries(folders, suffixes).get(name)


def _unknown(kind: str, name: str, folders: Sequence[Path], suffixes: Sequence[str], option: str, variable: str) -> str:
    there = list(_entries(folders, suffixes))
    shown = ", ".join(there[:20]) + (", …" if len(there) > 20 else "") or "none"
    places = ", ".join(repr(str(folder)) for folder in folders)
    return f"{kind} {name!r} is unknown; in {places} there are: {shown} (see {option}, {variable})"
