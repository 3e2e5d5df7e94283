"""The one error of a store that cannot be used for now, whatever database is behind it."""


class StoreUnavailable(Exception):
    """Nothing can be written down now: the disk is full or read-only, the database is away, or another one writes."""
