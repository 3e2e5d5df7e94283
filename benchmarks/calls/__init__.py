"""The calls of ``benchmarks/identity.py``: a module each, whose ``CALLS`` gives functions by name.

A function gets a :class:`calls.room.Room` and returns what was made. Public names alone are used, so that the calls
outlive whatever is rebuilt behind them.
"""
