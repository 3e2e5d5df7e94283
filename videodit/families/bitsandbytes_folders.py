"""Folders that diffusers saved of models quantized by bitsandbytes: read one tensor at a time, and dequantized.

8 bits: ``x.weight`` holds whole numbers, ``x.SCB`` the largest value of each row, which is what 127 stands for. 4 bits:
``x.weight`` holds two codes a byte, the higher bits first; ``quant_map`` says what they stand for, times ``absmax`` of
each block. ``absmax`` may be codes itself. What ``x.weight.quant_state.bitsandbytes__…`` says is JSON.
(bitsandbytes, functional.QuantState)
"""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from videodit.errors import ModelError
from videodit.families.stored import Stored
from videodit.weights import Entry

logger = logging.getLogger(__name__)

_STATE = re.compile(r"(?P<weight>.+)\.quant_state\.bitsandbytes__(nf4|fp4)")
_BESIDE = re.compile(
    r".+\.weight\.(absmax|quant_map|nested_absmax|nested_quant_map|quant_state\.bitsandbytes__\w+)|.+\.SCB"
)
_CODES = ("U8", "I8")  # of 4 and of 8 bits
_MAX_STATE = 10_000
_LARGEST = 127


def without_bits(entries: Mapping[str, Entry]) -> dict[str, Entry]:
    """What of a folder of bitsandbytes' is not quantized."""
    return {name: entry for name, entry in entries.items() if not _is_beside(name) and entry.dtype not in _CODES}


def _is_beside(name: str) -> bool:
    """Whether a tensor says how another one is quantized."""
    return _BESIDE.fullmatch(name) is not None


class _State(NamedTuple):
    block: int
    shape: list[int]
    nested_block: int
    offset: float


class DequantizedBits:
    """The tensors of a folder of bitsandbytes', those that it quantized dequantized.

    Args:
        stored: the files'.
        entries: what their headers say.
        where: what an error names.

    Raises:
        ModelError: codes without what they stand for.
    """

    def __init__(self, stored: Stored, entries: Mapping[str, Entry], where: object) -> None:
        self._stored, self._entries, self._where = stored, entries, where
        self._states: dict[str, _State] = {}
        for name in entries:
            if (match := _STATE.fullmatch(name)) is not None:
                self._states[match["weight"]] = self._state(name)
        self._names = {name for name in entries if not _is_beside(name)}
        for name in self._names:
            if entries[name].dtype == "U8" and name not in self._states:
                raise self._damaged(name, "has no quant_state")
            if entries[name].dtype == "I8" and self._scales(name) not in entries:
                raise self._damaged(name, "has no SCB")
        count = sum(entries[name].dtype in _CODES for name in self._names)
        logger.warning(f"{where}: {count} tensors of bitsandbytes are dequantized as they are read")

    @staticmethod
    def _scales(name: str) -> str:
        return f"{name.removesuffix('.weight')}.SCB"

    def _damaged(self, name: str, what: str) -> ModelError:
        return ModelError(f"{self._where}: {name}, which bitsandbytes quantized, {what}")

    def _state(self, name: str) -> _State:
        entry = self._entries[name]
        if entry.dtype != "U8" or math.prod(entry.shape) > _MAX_STATE:
            raise self._damaged(name, "is no text")
        try:
            said = json.loads(bytes(self._stored.get(name).flatten().tolist()))
            shape = [int(size) for size in said["shape"]]
            state = _State(int(said["blocksize"]), shape, int(said.get("nested_blocksize") or 1),
                           float(said.get("nested_offset") or 0))  # fmt: skip
        except (ValueError, TypeError, KeyError, RecursionError, OverflowError):
            raise self._damaged(name, "does not say its shape and its blocks") from None
        if min([state.block, state.nested_block, *shape]) < 1 or not math.isfinite(state.offset):
            raise self._damaged(name, "does not say its shape and its blocks")
        return state

    @property
    def names(self) -> set[str]:
        """Of the weights."""
        return self._names

    def shape(self, name: str) -> list[int]:
        """A tensor's shape, without reading it."""
        return self._states[name].shape if name in self._states else self._stored.shape(name)

    def get(self, name: str, rows: tuple[int, int] | None = None) -> Tensor:
        """Read a tensor, in fp32 where it was quantized."""
        value = self._read(name)
        return value if rows is None else value[rows[0] : rows[1]]

    def _read(self, name: str) -> Tensor:
        tensor, kind = self._stored.get(name), self._entries[name].dtype
        if kind == "I8":
            scales = self._beside(self._scales(name), len(tensor))
            return tensor.float().mul_((scales / _LARGEST)[:, None])
        if kind != "U8":
            return tensor
        state = self._states[name]
        count = math.prod(state.shape)
        codes = tensor.flatten()
        if len(codes) != -(-count // 2):
            raise self._damaged(name, f"holds {len(codes)} bytes, which is not what shape {state.shape} needs")
        both = torch.stack([codes >> 4, codes & 15], 1).flatten()[:count]
        value = self._beside(f"{name}.quant_map", 16)[both.int()]
        most = self._most(name, state, -(-count // state.block))
        whole = count // state.block  # the last block may be shorter
        value[: whole * state.block].view(whole, state.block).mul_(most[:whole, None])
        value[whole * state.block :].mul_(most[whole:])
        return value.view(state.shape)

    def _most(self, name: str, state: _State, blocks: int) -> Tensor:
        """The largest value of each block."""
        most = self._stored.get(f"{name}.absmax") if f"{name}.absmax" in self._entries else torch.empty(0)
        if len(most) != blocks or most.dim() != 1:
            raise self._damaged(name, f"has {most.numel()} largest values for {blocks} blocks")
        if most.is_floating_point():
            return most.float()
        scales = self._beside(f"{name}.nested_absmax", -(-blocks // state.nested_block))
        known = self._beside(f"{name}.nested_quant_map", 256)[most.to(torch.uint8).long()]
        return known * scales.repeat_interleave(state.nested_block)[:blocks] + state.offset

    def _beside(self, name: str, count: int) -> Tensor:
        if name not in self._entries or self._stored.shape(name) != [count]:
            raise self._damaged(name, f"is not there with {count} numbers")
        return self._stored.get(name).float()
