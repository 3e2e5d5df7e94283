"""Clips of one's own: from a folder, a manifest or shards to a cache of latents that a model is trained on."""
