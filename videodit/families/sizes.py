"""Parameters of what stands beside a transformer: text and image encoders, and autoencoders."""

from __future__ import annotations

T5_XXL = 4_762_310_656
UMT5_XXL = 5_680_910_336
LLAMA_3_8B = 7_505_186_816
CLIP_L = 123_060_480
CLIP_H_VISION = 630_766_080

WAN_VAE_2_1 = 126_892_531
WAN_VAE_2_2 = 704_688_668
HUNYUAN_VAE = 246_478_803
COGVIDEOX_VAE = 215_583_907
ALLEGRO_VAE = 174_955_751
LTX_VAE = 419_193_649
IMAGE_VAE = 83_653_863
FLUX_VAE = 83_819_683
MOCHI_VAE = 459_748_611
