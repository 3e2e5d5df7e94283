"""`videodit families`: the published models that a VideoDiT runs, and the proof that it is the same network."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Annotated, Any

import typer

from videodit.cli.progress import show_progress
from videodit.cli.results import emit

# Sizes, and where weights came from: what is left of the options is what tells families apart.
_SIZES = frozenset(
    {
        "patch_size", "num_attention_heads", "attention_head_dim", "in_channels", "out_channels", "text_dim",
        "freq_dim", "ffn_dim", "num_layers", "num_single_layers", "num_refiner_layers", "time_embed_dim", "pooled_dim",
        "image_dim", "image_tokens", "learned_grid", "learned_text", "family", "family_config",
    }
)  # fmt: skip

_ABOUT = """\
The last column is the weights of all parts, on disk and, loaded at once, in memory. What a clip needs on top depends on
its size: `videodit generate PROMPT -m MODEL --dry-run` says it. docs/control.md and docs/references.md say what can
steer which model.
Read a licence before you use a model: its card on the Hub has the text."""


def families(
    check: Annotated[
        bool,
        typer.Option(
            "--check", help="Compare a tiny random member of each with diffusers' own class: the largest difference."
        ),
    ] = False,
    options: Annotated[
        bool, typer.Option("--options", help="Show which options of a VideoDiT each family sets, too.")
    ] = False,
) -> None:
    """List the published checkpoints, their sizes and hub ids, as a Markdown table."""
    with show_progress() as progress:
        progress.stage("loading the libraries")
        from videodit.families import FAMILIES
    published: list[tuple[str, ...]] = [
        ("checkpoint", "hub id, for `-m`", "makes", "of", "licence", "the transformer", "in bf16", "the whole in bf16")
    ]
    for family in FAMILIES.values():
        for title, one in family.published.items():
            sizes = [f"{2e-9 * count:.1f} GB" for count in (one.parameters, one.parameters + one.companions)]
            count = f"{one.parameters:,} parameters"
            published.append((title, one.hub_id, one.makes, one.takes, one.licence, count, *sizes))
    rows = _members(check) if options or check else []
    emit("families", members=_records(rows), checkpoints=_published_records(FAMILIES.values()))
    _print_table(published)
    print()
    print(_ABOUT)
    if rows:
        print()
        _print_table(rows)


def _members(check: bool) -> list[tuple[str, ...]]:
    """A row for each member of a family: which options it sets and, where wanted, how it differs from diffusers."""
    with show_progress() as progress:
        progress.stage("loading the libraries")
        from videodit.families import FAMILIES
        from videodit.families.parity import MEMBERS, deviation

        rows = [("member", "family", "predicts", "options", *(("largest difference",) if check else ()))]
        for index, (name, member) in enumerate(MEMBERS.items()):
            progress.stage(f"comparing {name}, {index + 1}/{len(MEMBERS)}")
            family = FAMILIES[member.family]
            row = (
                name,
                family.title,
                family.objective,
                _options(family.native_config(member.config) | member.overrides),
            )
            rows.append((*row, f"{deviation(member):.0e}") if check else row)
    return rows


def _records(rows: list[tuple[str, ...]]) -> list[dict[str, str]]:
    """A table's rows under the names of its columns."""
    names = [name.replace(" ", "_") for name in rows[0]] if rows else []
    return [dict(zip(names, row, strict=True)) for row in rows[1:]]


def _published_records(families: Iterable[Any]) -> list[dict[str, Any]]:
    return [
        {
            "checkpoint": title,
            "family": family.title,
            "hub_id": one.hub_id,
            "parameters": one.parameters,
            "companion_parameters": one.companions,
            "licence": one.licence,
            "takes": one.takes,
            "makes": one.makes,
        }
        for family in families
        for title, one in family.published.items()
    ]


def _options(config: dict[str, Any]) -> str:
    """What differs from the class defaults, sizes left aside."""
    from videodit.transformer import VideoDiT

    defaults = {p.name: p.default for p in inspect.signature(VideoDiT.__init__).parameters.values()}
    parts = []
    for key, value in config.items():
        if key not in _SIZES and value != defaults[key]:
            parts.append(f"{key}={_short(value)}")
    return ", ".join(parts)


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return "(" + ", ".join(f"{key}={_short(one)}" for key, one in value.items()) + ")"
    if isinstance(value, tuple):
        return "·".join(f"{number:.3g}" for number in value)
    return str(value)


def _print_table(rows: list[tuple[str, ...]]) -> None:
    header, *rest = rows
    print(f"| {' | '.join(header)} |")
    print("|" + "---|" * len(header))
    for row in rest:
        print(f"| {' | '.join(row)} |")
