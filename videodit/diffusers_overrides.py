"""What a VideoDiT does in another way than diffusers' classes that it is one of."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias, cast

from torch import Tensor, nn

from videodit.adapters.state import present
from videodit.errors import InputError
from videodit.weights import of_codes

if TYPE_CHECKING:
    from diffusers import FasterCacheConfig, FirstBlockCacheConfig, PyramidAttentionBroadcastConfig
    from diffusers import ModelMixin as Base

    CacheConfig: TypeAlias = FasterCacheConfig | FirstBlockCacheConfig | PyramidAttentionBroadcastConfig
else:
    Base = object


class DiffusersOverrides(Base):
    """Goes before diffusers' ``ModelMixin``, ``PeftAdapterMixin``, ``CacheMixin`` and ``AttentionMixin``."""

    blocks: nn.ModuleList

    def save_pretrained(  # pipelines pass on what the signature names
        self,
        save_directory: str | os.PathLike[str],
        is_main_process: bool = True,
        save_function: Callable[..., object] | None = None,
        safe_serialization: bool = True,
        variant: str | None = None,
        max_shard_size: int | str = "10GB",
        push_to_hub: bool = False,
        **kwargs: object,
    ) -> None:
        """As diffusers' ``ModelMixin.save_pretrained``.

        Raises:
            InputError: adapters are in the layers, or codes of a GGUF file, whose folder could not be read again.
        """
        if any(map(of_codes, self.parameters())):
            raise InputError(
                "a model of a GGUF file cannot be saved: its codes would not load again; keep the file, or write its "
                "weights dequantized by `videodit convert FILE FOLDER`"
            )
        if names := present(self):
            raise InputError(
                f"a model's folder holds no adapters, and {', '.join(names)} is there; call save_lora and "
                "unload_lora() first, which keeps what is fused"
            )
        super().save_pretrained(
            save_directory,
            is_main_process=is_main_process,
            save_function=save_function,
            safe_serialization=safe_serialization,
            variant=variant,
            max_shard_size=max_shard_size,
            push_to_hub=push_to_hub,
            **kwargs,
        )

    def load_state_dict(
        self, state_dict: Mapping[str, Tensor], *args: bool, **kwargs: bool
    ) -> tuple[list[str], list[str]]:
        """As torch's ``Module.load_state_dict``.

        Raises:
            InputError: a parameter that a loaded LoRA changes, whose new value would not outlast the LoRA.
        """
        if (changes := getattr(self, "weight_differences", None)) is not None:
            changes.check_free(state_dict)
        keys: tuple[list[str], list[str]] = super().load_state_dict(state_dict, *args, **kwargs)
        return keys

    def fuse_qkv_projections(self) -> None:
        """Refused: queries, keys and values have layers of their own here, where LoRAs find them.

        Raises:
            InputError: always.
        """
        raise InputError("VideoDiT does not fuse its projections of queries, keys and values")

    def unfuse_qkv_projections(self) -> None:
        """Refused, as :meth:`fuse_qkv_projections`.

        Raises:
            InputError: always.
        """
        self.fuse_qkv_projections()

    def set_attn_processor(self, processor: object) -> None:
        """As diffusers' ``AttentionMixin.set_attn_processor``; a dict of processors is not changed.

        Args:
            processor: one for all attentions, or one for each name of ``attn_processors``.

        Raises:
            InputError: what cannot be called, or a dict with other names.
        """
        names = list(self.attn_processors)
        if isinstance(processor, dict) and processor.keys() != set(names):
            unknown, missing = (
                ", ".join(sorted(map(str, one)))
                for one in (processor.keys() - set(names), set(names) - processor.keys())
            )
            raise InputError(
                f"the number of processors must be {len(names)}, one for each name of attn_processors, got "
                f"{len(processor)}; missing: {missing or 'none'}; unknown: {unknown or 'none'}"
            )
        for one in processor.values() if isinstance(processor, dict) else [processor]:
            if isinstance(one, type) or not callable(one):
                raise InputError(f"an attention processor must be an object that can be called, got {one!r}")
        super().set_attn_processor(dict(processor) if isinstance(processor, dict) else processor)

    def enable_cache(self, config: CacheConfig) -> None:
        """As diffusers' ``CacheMixin.enable_cache``.

        Raises:
            InputError: ranges of pyramid attention broadcast for a kind of attention that this model has not got.
        """
        super().enable_cache(self._with_own_names(config))

    def _with_own_names(self, config: CacheConfig) -> CacheConfig:
        """A config whose identifiers find this model's kinds of attention, which may go by other names."""
        if type(config).__name__ != "PyramidAttentionBroadcastConfig":
            return config
        own = cast(Mapping[str, tuple[str, ...] | None], self.blocks[0].attention_names)
        for kind in ("temporal", "cross"):
            if getattr(config, f"{kind}_attention_block_skip_range") is not None and kind not in own:
                raise InputError(f"{kind}_attention_block_skip_range is set, but this model has no {kind} attention")
        return replace(
            config, **{f"{kind}_attention_block_identifiers": names for kind, names in own.items() if names is not None}
        )
