"""LoRA files under diffusers' own names: tensors out of a training script, and tensors as they stand in a file."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor, nn

from videodit.errors import InputError
from videodit.files import replacing

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from videodit.checkpoints import HubOptions
    from videodit.json_types import JsonObject


class LoRAFiles:
    """``save_lora_weights`` and ``lora_state_dict`` of diffusers' pipelines."""

    @classmethod
    def save_lora_weights(
        cls,
        save_directory: str | os.PathLike[str],
        transformer_lora_layers: Mapping[str, Tensor] | nn.Module | None = None,
        transformer_2_lora_layers: Mapping[str, Tensor] | nn.Module | None = None,
        is_main_process: bool = True,
        weight_name: str | None = None,
        save_function: Callable[[dict[str, Tensor], str], object] | None = None,
        safe_serialization: bool = True,
        transformer_lora_adapter_metadata: Mapping[str, object] | None = None,
        transformer_2_lora_adapter_metadata: Mapping[str, object] | None = None,
        control_lora_layers: Mapping[str, Tensor] | nn.Module | None = None,
        control_lora_adapter_metadata: Mapping[str, object] | None = None,
    ) -> None:
        """Write tensors of LoRA layers, as ``get_peft_model_state_dict(pipe.transformer)`` gives them.

        :func:`videodit.adapters.save_lora` writes an adapter of a transformer with all that loading it needs.

        Args:
            save_directory: made if it is not there.
            transformer_lora_layers: tensors by our names, of ``transformer``.
            transformer_2_lora_layers: of ``transformer_2``.
            is_main_process: others write nothing.
            weight_name: ends in ``.safetensors``; ``None`` for ``pytorch_lora_weights.safetensors``.
            save_function: in place of safetensors' own; takes the tensors and a path.
            safe_serialization: ``False`` is refused, since it would be a pickle.
            transformer_lora_adapter_metadata: ``transformer.peft_config[name].to_dict()``, which has alpha in it.
            transformer_2_lora_adapter_metadata: of ``transformer_2``.
            control_lora_layers: of one of ``pipe.controls``, in a file of its own, which
                ``load_lora_weights(…, control=NAME)`` reads.
            control_lora_adapter_metadata: of that branch.

        Raises:
            InputError: no layers, a pickle, a file in the folder's place, or metadata that JSON does not hold.
        """
        from safetensors.torch import save_file

        from videodit.adapters.reading import LAYOUT

        given = {
            "transformer": (transformer_lora_layers, transformer_lora_adapter_metadata),
            "transformer_2": (transformer_2_lora_layers, transformer_2_lora_adapter_metadata),
        }
        if control_lora_layers is not None:
            if any(layers is not None for layers, _ in given.values()):
                raise InputError("the LoRA of a control branch is a file of its own; save that of a transformer apart")
            given = {"transformer": (control_lora_layers, control_lora_adapter_metadata)}
        name = "pytorch_lora_weights.safetensors" if weight_name is None else weight_name
        if not safe_serialization or not name.endswith(".safetensors"):
            raise InputError(
                f"a LoRA is written as .safetensors, not as a pickle ({name!r}); pass safe_serialization=True"
            )
        tensors: dict[str, Tensor] = {}
        settings: dict[str, object] = {}
        for network, (layers, metadata) in given.items():
            state = layers.state_dict() if isinstance(layers, nn.Module) else layers or {}
            tensors |= {f"{network}.{key}": value.detach().cpu().contiguous() for key, value in state.items()}
            settings |= {f"{network}.{key}": value for key, value in (metadata or {}).items()}
        if not tensors:
            raise InputError("there is nothing to save; pass transformer_lora_layers or transformer_2_lora_layers")
        folder = Path(save_directory)
        if folder.exists() and not folder.is_dir():
            raise InputError(f"save_directory is {str(folder)!r}, which is not a folder")
        if not is_main_process:
            return
        header = {"format": "pt", LAYOUT: "native"} | _metadata(settings)
        folder.mkdir(parents=True, exist_ok=True)
        path = str(folder / name)
        if save_function is not None:
            save_function(tensors, path)
        else:
            with replacing(Path(path)) as partial:
                save_file(tensors, partial, metadata=header)

    @classmethod
    def lora_state_dict(
        cls,
        pretrained_model_name_or_path_or_dict: str | os.PathLike[str] | Mapping[str, Tensor],
        *,
        weight_name: str | None = None,
        return_lora_metadata: bool = False,
        **hub: Unpack[HubOptions],
    ) -> dict[str, Tensor] | tuple[dict[str, Tensor], JsonObject | None]:
        """The tensors of a LoRA file under the names that it has.

        Args:
            pretrained_model_name_or_path_or_dict: as the source of ``load_lora_weights``.
            weight_name: see there.
            return_lora_metadata: return the adapter's settings beside them, ``None`` for none.
            hub: see there.

        Raises:
            InputError: see there.
        """
        from videodit.adapters import find_lora
        from videodit.adapters.peft_settings import DIFFUSERS_METADATA
        from videodit.adapters.sources import json_metadata
        from videodit.checkpoints import HUB_OPTIONS

        if unknown := sorted(set(hub) - set(HUB_OPTIONS)):
            raise InputError(f"options {', '.join(unknown)} are unknown; valid values are {', '.join(HUB_OPTIONS)}")
        source = find_lora(pretrained_model_name_or_path_or_dict, weight_name=weight_name, **hub)
        tensors = {name: source.get(name) for name in source.names}
        return (tensors, json_metadata(source, DIFFUSERS_METADATA) or None) if return_lora_metadata else tensors


def _metadata(settings: Mapping[str, object]) -> dict[str, str]:
    """Settings of adapters for a file's header.

    Raises:
        InputError: JSON does not hold them.
    """
    from videodit.adapters.peft_settings import DIFFUSERS_METADATA

    if not settings:
        return {}
    try:
        return {DIFFUSERS_METADATA: json.dumps(settings, indent=2, sort_keys=True, default=_as_list)}
    except TypeError as error:
        raise InputError(f"the adapter's metadata cannot be written as JSON: {error}") from None


def _as_list(value: object) -> object:
    """What peft's settings hold and JSON does not."""
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    return getattr(value, "value", None) or str(value)
