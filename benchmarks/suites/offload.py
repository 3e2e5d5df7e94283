"""A transformer whose blocks wait in the CPU's memory: what streaming them costs, and how much of the copying it hides.

Wan 2.1 14B's blocks with random weights, fewer of them: each is copied and computed like the next, so that the seconds
grow with their number and the memory does not. The same transformer with all weights on the device stands beside it.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from suites.dit import rounded
from suites.measure import Bench, Case, Row, Side, compare, release, weights_of
from videodit import VideoDiT
from videodit.families import FAMILIES
from videodit.families.parity import MEMBERS, randomize

BLOCKS = 10
"""Of the 40."""
TEXT = 512


@dataclass
class Streamed:
    """One transformer twice, made when it is first needed: wholly on the device, and in streamed blocks."""

    bench: Bench
    whole: Any = None
    streamed: Any = None
    copying: float = 0.0

    def make(self) -> None:
        """Make both, unless they are there, and see what copying all weights takes."""
        from videodit.acceleration.bind import stream_blocks

        if self.streamed is not None:
            return
        family, bench = FAMILIES["wan"], self.bench
        published = {**family.published["Wan 2.1 T2V 14B"].config, "num_layers": BLOCKS}
        torch.manual_seed(bench.seed)
        with torch.device(bench.device):
            theirs = dict(MEMBERS["wan"].theirs().config) if bench.tiny else _defaults() | published
            self.whole = randomize(VideoDiT(**family.native_config(theirs)).eval())
        self.whole.to(bench.device)
        for parameter in rounded(self.whole):
            parameter.data = parameter.data.bfloat16()
        release()
        waiting = copy.deepcopy(self.whole).to("cpu")
        stream_blocks(waiting, bench.device)
        self.copying, self.streamed = self._copied(waiting), waiting

    def _copied(self, model: Any) -> float:
        """Seconds in which all weights of the blocks are copied to the device, without anything else to do."""
        seconds = []
        for _ in range(3):
            self.bench.wait()
            started = time.perf_counter()
            for parameter in model.blocks.parameters():
                parameter.data.to(self.bench.device, non_blocking=True)
            self.bench.wait()
            seconds.append(time.perf_counter() - started)
        return statistics.median(seconds)

    def inputs(self, latents: tuple[int, int, int]) -> dict[str, Tensor]:
        """Of a prediction, drawn from the seed."""
        config, generator = self.whole.config, torch.Generator().manual_seed(self.bench.seed)
        drawn = {
            "hidden_states": torch.randn(1, config.in_channels, *latents, generator=generator).bfloat16(),
            "timestep": torch.tensor([500.0]),
            "encoder_hidden_states": torch.randn(1, TEXT, config.text_dim, generator=generator).bfloat16(),
        }
        return {name: value.to(self.bench.device) for name, value in drawn.items()}


def _defaults() -> dict[str, Any]:
    """The config of diffusers' class without any option: the 14B's."""
    from diffusers import WanTransformer3DModel

    with torch.device("meta"):
        return dict(WanTransformer3DModel(num_layers=1).config)


def streaming(pair: Streamed, latents: tuple[int, int, int]) -> list[Row]:
    """A prediction both ways.

    The overlap is the share of what could be hidden that is: of computing and copying, the shorter one.
    """
    pair.make()
    inputs = pair.inputs(latents)

    def predict(model: Any, turn: int) -> Tensor:
        return model(**inputs, return_dict=False)[0]

    whole = Side("on the device", partial(predict, pair.whole), weights=weights_of(pair.whole))

    def facts() -> Row:
        told: Row = {"parts": {"copying alone": pair.copying}}
        if whole.seconds and pair.bench.on_gpu:
            computing = statistics.median(whole.seconds.values())
            hidden = computing + pair.copying - statistics.median(streamed.seconds.values())
            told["overlap"] = hidden / min(computing, pair.copying)
        return told

    streamed = Side("blocks streamed", partial(predict, pair.streamed), facts=facts)
    return compare(pair.bench, [whole, streamed], dtype=torch.bfloat16, baseline="on the device")


def cases(bench: Bench) -> Iterator[Case]:
    """A case for few tokens and for many; a toy on a CPU, which has nothing to stream to."""
    if not bench.on_gpu and not bench.tiny:
        return
    pair = Streamed(bench)
    name = "toy" if bench.tiny else f"wan-14b, {BLOCKS} blocks"
    sizes = {"4x4x3": (3, 4, 4)} if bench.tiny else {"832x480x1": (1, 60, 104), "832x480x81": (21, 60, 104)}
    for size, latents in sizes.items():
        yield Case(f"{name}, {size}", partial(streaming, pair, latents))
