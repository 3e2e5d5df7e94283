"""Weights of a family that torchao quantizes while they are loaded, one at a time, as diffusers does with its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from videodit.errors import InputError
from videodit.weights import one_line

if TYPE_CHECKING:
    from diffusers import ModelMixin

Place = str | int | torch.device


class LoadingQuantizer:
    """Quantizes the linear layers of a model without data as their weights arrive.

    Args:
        model: a VideoDiT.
        config: diffusers' ``TorchAoConfig``.
        dtype: of the weights that are not quantized.
        places: the device of each module.

    Raises:
        InputError: another quantizer, or one that does not work here.
    """

    def __init__(self, model: ModelMixin, config: object, dtype: torch.dtype, places: Mapping[str, Place]) -> None:
        from diffusers import TorchAoConfig

        from videodit._diffusers import DiffusersAutoQuantizer

        if not isinstance(config, TorchAoConfig):
            raise InputError(
                f"quantization_config of a family's weights must be a TorchAoConfig, got {type(config).__name__}; for "
                "others, rewrite the folder by `videodit convert`, or quantize by accelerate(AccelConfig(quantize=…))"
            )
        # What a map leaves on the CPU is not quantized; a single place is no map.
        device_map = places if len(set(places.values())) > 1 else None
        try:
            self._quantizer = DiffusersAutoQuantizer.from_config(config, pre_quantized=False)
            self._quantizer.validate_environment(torch_dtype=dtype, device_map=device_map)
            self._quantizer.update_torch_dtype(dtype)  # warns of one that does not suit
        except (ImportError, ValueError, RuntimeError) as error:
            raise InputError(f"quantization_config cannot be used here: {one_line(error)}") from None
        self._model = model
        wide = list(model._keep_in_fp32_modules)
        self._quantizer.preprocess_model(model, device_map=device_map, keep_in_fp32_modules=wide)

    def takes(self, name: str, value: Tensor, place: Place) -> bool:
        """Set a tensor if it is one that is quantized; else it is left to the caller."""
        quantizer = self._quantizer
        if not quantizer.check_if_quantized_param(self._model, value, name, {}, param_device=place):
            return False
        quantizer.create_quantized_param(self._model, value, name, torch.device(place), {}, [])
        return True

    def finish(self) -> None:
        """To be called once all tensors are set."""
        self._quantizer.postprocess_model(self._model)
        self._model.hf_quantizer = self._quantizer
