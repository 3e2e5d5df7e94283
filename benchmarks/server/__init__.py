"""Cases of `serving.py`, by what they look at."""
