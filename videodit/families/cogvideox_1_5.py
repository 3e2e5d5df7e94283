"""What CogVideoX 1.5 has other than 1.0: patches of two latent frames, and a constant that its I2V model embeds."""

from __future__ import annotations

from videodit.errors import InputError
from videodit.families.base import FIRST, Published, Tensors, Transform
from videodit.families.sampling import always
from videodit.families.sizes import COGVIDEOX_VAE, T5_XXL
from videodit.json_types import Config, JsonObject


def _as_patches(x: Tensors, config: Config) -> Tensors:
    frames, height, width = config["patch_size"]
    return [x[0] if frames > 1 else x[0].unflatten(1, (-1, height, width))]


PATCHES = Transform(lambda x, _: [x[0].flatten(1)], _as_patches)
"""A convolution over the patches of a frame in 1.0, a linear layer over those of several frames in 1.5."""


def check(config: Config) -> None:
    """See that entries of a config go together.

    Raises:
        InputError: they do not.
    """
    frames = config["patch_size_t"]
    rotates = config["use_rotary_positional_embeddings"] and not config["use_learned_positional_embeddings"]
    if frames == 1:
        raise InputError("CogVideoX: patch_size_t is 1; it must be None or at least 2")
    if frames is not None and not rotates:
        raise InputError(f"CogVideoX: patch_size_t is {frames}, which needs rotary positions alone")
    if frames is None and not config["patch_bias"]:
        raise InputError("CogVideoX: patch_bias is False; it must be True where patch_size_t is None")
    if config["ofs_embed_dim"] not in (None, config["time_embed_dim"]):
        raise InputError(
            f"CogVideoX: ofs_embed_dim is {config['ofs_embed_dim']}; it must be None or time_embed_dim, which is "
            f"{config['time_embed_dim']}"
        )


def constant(config: Config) -> JsonObject:
    """The option for what diffusers calls ofs, which is 2 in every call; none where there is none."""
    channels = config["ofs_embed_dim"]
    return {} if channels is None else {"block_options": {"constant_dim": channels}}


DEFAULTS = always(768, 1360, 81, 16.0, 50, 6.0)
_OF_1_5 = {"patch_size_t": 2, "patch_bias": False, "sample_frames": 81, "sample_height": 300, "sample_width": 300}


def published(large: JsonObject, licence: str) -> dict[str, Published]:
    """Its checkpoints.

    Args:
        large: what their configs share with 1.0's larger model.
        licence: of all of them.
    """
    return {
        "CogVideoX 1.5 5B": Published(
            "zai-org/CogVideoX1.5-5B", large | _OF_1_5, 5_570_676_352, T5_XXL + COGVIDEOX_VAE, licence
        ),
        "CogVideoX 1.5 5B I2V": Published(
            "zai-org/CogVideoX1.5-5B-I2V",
            large | _OF_1_5 | {"in_channels": 32, "ofs_embed_dim": 512},
            5_571_594_880,
            T5_XXL + COGVIDEOX_VAE,
            licence,
            FIRST,
        ),
    }
