"""What Prometheus is told: counts and times, nothing of what was asked."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """The server's figures, in a registry of their own so that several servers fit into one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "ich_server_requests",
            "Requests answered, by interface, signature and code.",
            ["api", "signature", "code"],
            registry=self.registry,
        )
        self.seconds = Histogram(
            "ich_server_request_seconds",
            "Time from a request's arrival to its answer, in s.",
            ["api", "signature"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.load_failures = Counter(
            "ich_server_load_failures", "Versions that could not be loaded.", registry=self.registry
        )
        self.in_flight = Gauge("ich_server_in_flight", "Requests that wait or are computed.", registry=self.registry)
        self.queue_length = Gauge("ich_server_queue_length", "Requests that wait.", registry=self.registry)

    def watch_versions(self, model: str, loaded: Callable[[], Iterable[int]]) -> None:
        """Shows the loaded versions, one line each."""
        self.registry.register(_Versions(model, loaded))

    def done(self, api: str, signature: str, code: str, seconds: float) -> None:
        """Counts an answer; `signature` must be one that the model has, or empty, for each value is kept for ever."""
        self.requests.labels(api, signature, code).inc()
        self.seconds.labels(api, signature).observe(seconds)

    def page(self) -> bytes:
        """The figures in Prometheus' text form."""
        return generate_latest(self.registry)


class _Versions(Collector):
    def __init__(self, model: str, loaded: Callable[[], Iterable[int]]) -> None:
        self._model = model
        self._loaded = loaded

    def collect(self) -> Iterable[Metric]:
        family = GaugeMetricFamily("ich_server_version_loaded", "Versions that answer.", labels=["model", "version"])
        for version in self._loaded():
            family.add_metric([self._model, str(version)], 1.0)
        yield family
