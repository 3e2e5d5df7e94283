"""The names in an ES module: which it imports, exports, defines and uses. Enough of the language for this page's files.

Scopes are not told apart: a name that is defined anywhere in a module counts as defined in all of it.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, field
from pathlib import Path

_WORDS = (
    "async await break case catch class const constructor continue default delete do else export extends false "
    "finally for function if import in instanceof let new null of return static super switch this throw "
    "true try typeof undefined var void while yield"
)
KEYWORDS = frozenset(_WORDS.split())
_BROWSER = (
    "AbortController Array Blob Boolean BroadcastChannel CustomEvent DataView Date Error EventSource EventTarget File "
    "FormData Infinity IntersectionObserver JSON Map Math Notification Number Object Promise Set String URL "
    "URLSearchParams Uint8Array WeakMap addEventListener cancelAnimationFrame clearTimeout document "
    "encodeURIComponent fetch getComputedStyle localStorage location navigator removeEventListener "
    "requestAnimationFrame setTimeout window"
)
BROWSER = frozenset(_BROWSER.split())
"""What the browser has, as far as the page uses it."""
_STRING = r'"(?:[^"\\\n]|\\.)*"|\'(?:[^\'\\\n]|\\.)*\''
_COMMENT = r"/\*[\s\S]*?\*/|//[^\n]*"
_REGEX = r"(?<=[(,=:\[!&|?{;])\s*/(?![*/])(?:[^/\\\n\[]|\\.|\[(?:[^\]\\\n]|\\.)*\])+/[a-z]*"
_TOKEN = re.compile(r"\d[\w.]*|[A-Za-z_$][\w$]*|\.\.\.|=>|\?\.|[^\s\w]")


@dataclass
class Module:
    """Names of a script."""

    imports: list[tuple[str, set[str]]] = field(default_factory=list)
    exported: set[str] = field(default_factory=set)
    defined: set[str] = field(default_factory=set)
    used: set[str] = field(default_factory=set)


def tokens_of(text: str) -> list[str]:
    """Words and signs; strings become ``""``, and of templates their expressions stay."""
    text = re.sub(f"{_COMMENT}|{_STRING}|{_REGEX}", lambda found: "" if found[0][:2] in ("/*", "//") else '""', text)
    while "`" in text:  # from the innermost template on
        text, count = re.subn(r"`([^`]*?)`", lambda found: _expressions(found[1]), text, count=1)
        assert count, "a template does not end"
    return _TOKEN.findall(text)


def _expressions(template: str) -> str:
    return f"[{','.join(re.findall(r'[$]{((?:[^{}]|{[^{}]*})*)}', template))}]"


@functools.cache
def read_module(script: Path) -> Module:
    """What a script imports, exports, defines and uses."""
    text = script.read_text(encoding="utf-8")
    module = Module()
    pattern = r'^import \{([^}]*)\} from "\./([^"]+)";$'
    for names, file in re.findall(pattern, text, re.MULTILINE):
        module.imports.append((file, {name.strip() for name in names.split(",")}))
    module.defined |= {name for _, names in module.imports for name in names}
    module.exported = set(re.findall(r"^export (?:async )?(?:function|class|const) (\w+)", text, re.MULTILINE))
    tokens = ["", *tokens_of(re.sub(pattern, "", text, flags=re.MULTILINE)), "", ""]
    ends = _brackets(tokens)
    for at, (before, token, after) in enumerate(zip(tokens, tokens[1:-1], tokens[2:], strict=False), 1):
        if token in ("const", "let", "var"):
            end = ends.get(at + 1, at + 1)
            module.defined |= _names(tokens[at + 1 : end + 1])
        elif token == "(" and _are_parameters(before, tokens[ends[at] + 1]):
            module.defined |= _names(tokens[at + 1 : ends[at]])
        if not re.match(r"[A-Za-z_$]", token) or token in KEYWORDS or before in (".", "?."):
            continue
        is_key = (after == ":" and before in ("{", ",")) or (token == "get" and re.match(r"\w", after))
        is_method = after == "(" and tokens[ends[at + 1] + 1] == "{" and before != "function"
        if before in ("function", "class") or after == "=>":
            module.defined.add(token)
        elif not is_key and not is_method:
            module.used.add(token)
    return module


def _are_parameters(before: str, after: str) -> bool:
    """Whether what is in round brackets binds names, by what is before and after it."""
    if before in KEYWORDS and before not in ("catch", "constructor", "async", "return"):
        return False
    return after == "=>" or (after == "{" and re.match(r"[\w$]", before) is not None)


def _brackets(tokens: list[str]) -> dict[int, int]:
    """Where each bracket is closed."""
    ends, open_ = {}, []
    for at, token in enumerate(tokens):
        if token in ("(", "[", "{"):
            open_.append(at)
        elif token in (")", "]", "}"):
            ends[open_.pop()] = at
    assert not open_
    return ends


def _names(tokens: list[str]) -> set[str]:
    """The names that a pattern of parameters or of a declaration binds."""
    return {
        token
        for before, token, after in zip(["", *tokens], tokens, [*tokens[1:], ""], strict=False)
        if re.match(r"[A-Za-z_$]", token) and token not in KEYWORDS and before not in (".", "?.") and after != ":"
    }


@functools.cache
def read_texts() -> dict[str, str]:
    """What ``T`` of strings.js holds, by its path: ``text``, or ``group``."""
    script = Path(__file__).parent.parent / "videodit" / "serving" / "page" / "strings.js"
    tokens = tokens_of(script.read_text(encoding="utf-8"))
    found: dict[str, str] = {}
    path: list[str] = []
    for at, token in enumerate(tokens[5:], 5):  # export const T = {
        if token == ":":
            name = ".".join([*path, tokens[at - 1]])
            found[name] = "group" if tokens[at + 1] == "{" else "text"
            if tokens[at + 1] == "{":
                path.append(tokens[at - 1])
        elif token == "}":
            if not path:
                break
            path.pop()
    return found
