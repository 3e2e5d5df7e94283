"""Control: what steers a clip besides its prompt, and the networks that take it.

This package imports nothing by itself, so that planning, which reads :mod:`videodit.control.kinds`, stays light.
"""
