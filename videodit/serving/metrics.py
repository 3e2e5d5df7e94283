"""`GET /metrics`: what Prometheus collects. Jobs are counted in the store, so that restarts lose nothing."""

from __future__ import annotations

import time
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from videodit.serving.records import STATES
from videodit.serving.state import ServerState

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class JobCollector(Collector):
    """Reads the store when it is asked.

    Args:
        state: of the server.
        workers: gives how many run.
    """

    def __init__(self, state: ServerState) -> None:
        self._state = state

    def collect(self) -> Iterable[Metric]:
        """Jobs by state, how long the first one waits, how long finished ones took, and event streams."""
        store = self._state.store
        jobs = GaugeMetricFamily("videodit_jobs", "Jobs that are kept, by state.", labels=["state"])
        for name in STATES:
            jobs.add_metric([name], store.count(name))
        yield jobs
        oldest = store.oldest_queued()
        waits = 0.0 if oldest is None else max(0.0, time.time() - oldest)
        yield GaugeMetricFamily("videodit_queue_oldest_seconds", "How long the first queued job waits.", waits)
        yield GaugeMetricFamily("videodit_queue_limit", "Jobs that may wait.", self._state.config.limits.queue)
        yield GaugeMetricFamily("videodit_event_streams", "Event streams that are open.", self._state.hub.streams)


def make_registry(state: ServerState) -> CollectorRegistry:
    """What this server tells, and its process."""
    registry = CollectorRegistry()
    registry.register(JobCollector(state))
    ProcessCollector(registry=registry)
    return registry


def exposition(registry: CollectorRegistry) -> bytes:
    """In Prometheus' text format."""
    return generate_latest(registry)
