"""Samples of clips in buckets, and the cache of their latents that training reads."""
