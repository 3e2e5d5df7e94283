"""The transformer: one prediction, the two of guidance, compiled and quantized blocks, beside diffusers' own class.

Weights are random and the same in both classes. The error is against diffusers' class in fp32, with weights and inputs
that are already rounded, so that nothing but the computing counts.
"""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from suites.measure import Bench, Case, Row, Side, compare, dtype_name, exact_fp32, in_one_line, release, weights_of
from videodit import VideoDiT
from videodit.families import FAMILIES
from videodit.families.parity import MEMBERS, Inputs, Member, randomize

MINI = {
    "num_attention_heads": 4, "attention_head_dim": 64, "num_layers": 9, "ffn_dim": 1024, "text_dim": 192,
}  # fmt: skip
"""The shape of ``mini``'s transformer, with Wan's norm of queries and keys, so that diffusers' class takes it."""
FEW_LAYERS = {"num_layers": 4, "num_single_layers": 8}
"""Of HunyuanVideo's 20 and 40, so that two of them fit in memory."""
PACKAGES = {"flash": "flash_attn", "_flash_3": "flash_attn_interface", "xformers": "xformers"}
"""Which backend of attention needs which."""


@dataclass(frozen=True)
class Shape:
    """A transformer and what goes in.

    Attributes:
        name: of the shape.
        member: the transformer.
        latents: frames, height and width.
        ways: what is measured, by the keys of `WAYS`.
        dtypes: in which.
    """

    name: str
    member: Member
    latents: tuple[int, int, int]
    ways: tuple[str, ...]
    dtypes: tuple[torch.dtype, ...] = (torch.bfloat16,)


def mini_member() -> Member:
    """Wan's family in `mini`'s shape."""
    return Member("wan", MINI, MEMBERS["wan"].call, text_tokens=16)


def shapes(bench: Bench) -> list[Shape]:
    """What is measured on a device."""
    both = (torch.bfloat16, torch.float32)
    small = ("eager", "guided", "compiled")
    if bench.tiny:
        wan = Shape("wan toy", MEMBERS["wan"], (3, 4, 4), ("attention", "eager", "backend", "guided", "compiled"), both)
        wide = replace(MEMBERS["wan"], config={**MEMBERS["wan"].config, "attention_head_dim": 16})
        return [
            wan,
            Shape("wan toy quantized", wide, (3, 4, 4), ("quantized",)),
            Shape("hunyuan toy", MEMBERS["hunyuan_video"], (2, 4, 4), ("eager", "compiled")),
            Shape("latte toy", MEMBERS["latte"], (3, 6, 10), ("eager", "compiled")),
        ]
    mini = Shape("mini 128x128x17", mini_member(), (5, 16, 16), small, both)
    if not bench.on_gpu:
        return [mini]
    hunyuan = published("hunyuan_video", {**FEW_LAYERS}, text_tokens=256)
    wan_config = FAMILIES["wan"].published["Wan 2.1 T2V 1.3B"].config
    few = published("wan", {**wan_config, "num_layers": FEW_LAYERS["num_layers"]}, text_tokens=512)
    return [
        Shape(
            "wan-1.3b 832x480x81",
            published("wan", "Wan 2.1 T2V 1.3B", text_tokens=512),
            (21, 60, 104),
            ("attention", "eager", "backend", "compiled"),
        ),
        Shape("wan-1.3b 832x480x81, 4 blocks", few, (21, 60, 104), ("quantized",)),
        Shape("hunyuan 960x544x61, 4+8 blocks", hunyuan, (16, 68, 120), ("eager", "compiled")),
        Shape("latte 512x512x16", published("latte", "Latte-1", text_tokens=120), (16, 64, 64), ("eager", "compiled")),
        replace(mini, dtypes=both[:1]),
    ]


def published(family: str, config: str | dict[str, Any], *, text_tokens: int) -> Member:
    """A published model, or a family's class with a config of diffusers' beyond its defaults."""
    values = FAMILIES[family].published[config].config if isinstance(config, str) else config
    return replace(MEMBERS[family], config=dict(values), text_tokens=text_tokens)


# ---- two networks that are one -----------------------------------------------------------------------


@dataclass
class Pair:
    """Both classes with the same weights, made when they are first needed.

    Attributes:
        theirs: diffusers' class.
        ours: ours.
        inputs: of a prediction, in the dtype.
        other: the same with another text.
        references: predictions in fp32 for the one and, where guidance is measured, for both of them.
    """

    shape: Shape
    dtype: torch.dtype
    bench: Bench
    theirs: Any = None
    ours: Any = None
    inputs: Inputs = field(default_factory=dict)
    other: Inputs = field(default_factory=dict)
    references: list[Tensor] = field(default_factory=list)

    def make(self) -> None:
        """Make them, unless they are there."""
        if self.references:
            return
        bench, member = self.bench, self.shape.member
        torch.manual_seed(bench.seed)
        with torch.device(bench.device):
            self.theirs = randomize(member.theirs())
            self.ours = member.ours(self.theirs)
        for model in (self.theirs, self.ours):
            model.to(bench.device)  # tables that come from NumPy are elsewhere
            for parameter in rounded(model):
                parameter.data = parameter.data.to(self.dtype).float()
        self.inputs, self.other = (self._drawn() for _ in range(2))
        self.other = self.inputs | {"encoder_hidden_states": self.other["encoder_hidden_states"]}
        with torch.no_grad(), exact_fp32():
            given = (self.inputs, self.other) if "guided" in self.shape.ways else (self.inputs,)
            parts = [self.member.call(self.theirs, in_fp32(inputs)) for inputs in given]
        self.references = [parts[0], torch.cat(parts)]
        for model in (self.theirs, self.ours):
            for parameter in rounded(model):
                parameter.data = parameter.data.to(self.dtype)

    @property
    def member(self) -> Member:
        return self.shape.member

    def _drawn(self) -> Inputs:
        drawn = self.member.draw(self.ours, self.shape.latents, batch=1, dtype=self.dtype)
        return {name: value.to(self.bench.device) if torch.is_tensor(value) else value for name, value in drawn.items()}

    def flops(self, batch: int = 1) -> int:
        """Model FLOPs of a forward."""
        from videodit.training.flops import count_flops

        inputs = {
            name: torch.empty(batch * len(value), *value.shape[1:], dtype=value.dtype, device="meta")
            if torch.is_tensor(value)
            else value
            for name, value in in_fp32(self.inputs).items()
        }
        with torch.device("meta"):
            twin = VideoDiT.from_config(self.ours.config)
        with torch.no_grad():
            return count_flops(lambda: twin(**inputs))

    def side(self, name: str, call: Any, **more: Any) -> Side:
        """A side of the class whose name it begins with."""
        model = self.theirs if name.startswith("diffusers") else self.ours
        return Side(name, call, weights=weights_of(model), **more)

    def forward(self, name: str, inputs: Inputs) -> Tensor:
        """A prediction of one of the classes."""
        if name.startswith("diffusers"):
            return self.member.call(self.theirs, inputs)
        return self.ours(**inputs, return_dict=False)[0]


def rounded(model: Any) -> Iterator[torch.nn.Parameter]:
    """The parameters that a pipeline loads in its dtype: all but those that the class wants in fp32."""
    kept = set(model._keep_in_fp32_modules or ())
    for name, parameter in model.named_parameters():
        if not kept & set(name.split(".")):
            yield parameter


def in_fp32(inputs: Inputs) -> Inputs:
    """Inputs with all floating point numbers in fp32."""
    return {
        name: value.float() if torch.is_tensor(value) and value.is_floating_point() else value
        for name, value in inputs.items()
    }


def together(one: Inputs, other: Inputs) -> Inputs:
    """Both in one batch."""
    return {name: torch.cat([value, other[name]]) if torch.is_tensor(value) else value for name, value in one.items()}


# ---- the ways ----------------------------------------------------------------------------------------


def eager(pair: Pair) -> list[Row]:
    """One prediction as it comes."""
    pair.make()
    return _predictions(pair)


def _predictions(pair: Pair, label: str = "", refused: dict[str, str] | None = None) -> list[Row]:
    names = [f"diffusers{label}", f"videodit{label}"]
    sides = [
        pair.side(
            name,
            lambda _, name=name: pair.forward(name, pair.inputs),
            refused=(refused or {}).get(name),
        )
        for name in names
    ]
    return compare(pair.bench, sides, dtype=pair.dtype, flops=pair.flops(), reference=pair.references[0])


def guided(pair: Pair) -> list[Row]:
    """The two predictions of guidance: one after the other, as diffusers' pipeline makes them, or in one forward."""
    pair.make()
    both = together(pair.inputs, pair.other)

    def in_turn(name: str) -> Tensor:
        return torch.cat([pair.forward(name, pair.inputs), pair.forward(name, pair.other)])

    sides = [
        pair.side("diffusers, in turn", lambda _: in_turn("diffusers")),
        pair.side("videodit, in turn", lambda _: in_turn("videodit")),
        pair.side("videodit, one forward", lambda _: pair.forward("videodit", both)),
    ]
    return compare(pair.bench, sides, dtype=pair.dtype, flops=pair.flops(2), reference=pair.references[1])


def attention(pair: Pair) -> list[Row]:
    """The attention of a block alone, by each backend that gives the exact one."""
    from diffusers.models.attention_dispatch import dispatch_attention_fn

    from videodit.acceleration.attention import CANDIDATES

    pair.make()
    tokens, heads, dim = attended(pair)
    generator = torch.Generator().manual_seed(pair.bench.seed)
    q, k, v = (
        torch.randn(1, tokens, heads, dim, generator=generator).to(pair.bench.device, pair.dtype) for _ in range(3)
    )
    sides = [
        Side(name, lambda _, name=name: dispatch_attention_fn(q, k, v, backend=name), refused=missing(name))
        for name in CANDIDATES
    ]
    rows = compare(pair.bench, sides, dtype=pair.dtype, flops=4 * tokens**2 * heads * dim, baseline=CANDIDATES[0])
    for row in rows:  # a backend may refuse in any way where it is not meant to run
        row.pop("failed", None)
    return rows


def missing(backend: str) -> str | None:
    """What a backend of attention needs and is not here."""
    package = PACKAGES.get(backend)
    return f"{package} is not installed" if package and importlib.util.find_spec(package) is None else None


def attended(pair: Pair) -> tuple[int, int, int]:
    """Tokens that attend to each other, heads and channels of a head."""
    config, grid = pair.ours.config, pair.ours.geometry.patch
    tokens = 1
    for size, patch in zip(pair.shape.latents, grid, strict=True):
        tokens *= size // patch
    return tokens, config.num_attention_heads, config.attention_head_dim


def backend(pair: Pair) -> list[Row]:
    """One prediction with the attention that is fastest here, in both classes; it stays for what is compiled."""
    from videodit.acceleration.attention import fastest

    pair.make()
    name, _ = fastest(pair.bench.device, pair.dtype, *attended(pair))
    for model in (pair.theirs, pair.ours):
        model.set_attention_backend(name)
    return _predictions(pair, f", {name}")


def compiled(pair: Pair) -> list[Row]:
    """One prediction with compiled blocks, for this shape alone."""
    pair.make()
    torch.compiler.reset()
    refused = {}
    for name, model, options in (("diffusers", pair.theirs, {}), ("videodit", pair.ours, {"fullgraph": True})):
        try:
            model.compile_repeated_blocks(dynamic=False, **options)
        except ValueError as error:  # diffusers does not say of every class which blocks repeat
            refused[f"{name}, compiled"] = in_one_line(error)
    return _predictions(pair, ", compiled", refused)


def _predict(model: VideoDiT, inputs: Inputs, turn: int) -> Tensor:
    return model(**inputs, return_dict=False)[0]


def quantized(pair: Pair) -> list[Row]:
    """One prediction with compiled blocks of ours: as they are, and with 8-bit products in their linear layers."""
    from videodit.acceleration.quantize import quantize_blocks, why_not

    pair.make()
    torch.compiler.reset()
    sides = []
    for kind in (None, "int8", "fp8"):
        model = copy.deepcopy(pair.ours)
        refused = None if kind is None else why_not(kind, pair.bench.device)
        if refused is None and kind is not None:
            quantize_blocks(model, kind)
        model.compile_repeated_blocks(dynamic=False, fullgraph=True)
        name = f"videodit, {kind or dtype_name(pair.dtype)}, compiled"
        call = partial(_predict, model, pair.inputs)
        sides.append(Side(name, call, weights=weights_of(model), refused=refused))
    return compare(
        pair.bench,
        sides,
        dtype=pair.dtype,
        flops=pair.flops(),
        baseline=sides[0].name,
        reference=pair.references[0],
    )


WAYS = {
    "attention": attention,
    "eager": eager,
    "guided": guided,
    "backend": backend,
    "compiled": compiled,
    "quantized": quantized,
}


def cases(bench: Bench) -> Iterator[Case]:
    """A case for each shape, dtype and way."""
    for shape in shapes(bench):
        for dtype in shape.dtypes:
            pair = Pair(shape, dtype, bench)
            for way in _in_order(shape.ways):
                yield Case(f"{shape.name}, {dtype_name(dtype)}, {way}", partial(WAYS[way], pair))
            if pair.ours is not None:
                for model in (pair.theirs, pair.ours):
                    model.reset_attention_backend()
                _forget_backend()
                del pair, model
                release()


def _in_order(ways: Sequence[str]) -> list[str]:
    """What changes the networks for good comes last."""
    return sorted(ways, key=list(WAYS).index)


def _forget_backend() -> None:
    """diffusers keeps the last backend for everything that has none of its own."""
    from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry

    _AttentionBackendRegistry.set_active_backend(AttentionBackendName.NATIVE)
