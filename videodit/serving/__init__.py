"""A server for clips: jobs in one SQLite file, workers that pull them, and the web process with the /v1/videos API.

:mod:`~videodit.serving.records` says what a job is, :mod:`~videodit.serving.store` keeps jobs,
:mod:`~videodit.serving.worker` makes them, :mod:`~videodit.serving.supervisor` keeps workers alive, and
:mod:`~videodit.serving.app` answers requests. The web process loads neither torch nor av.
"""
