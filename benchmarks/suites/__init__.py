"""The suites of ``benchmarks/run.py``: a module each, whose ``cases(bench)`` yields what is measured."""
