"""The served stage's figures for Prometheus. Labels hold what the stage itself chose, never what a client sent."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from medgrpo.serve.engine import Engine
from medgrpo.serve.limits import Queue
from medgrpo.serve.stage import VersionsInMemory

FIRST_TOKEN_S = (0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
REQUEST_S = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
CLIENT_GONE = 499
"""Counted as the status of a request whose client left before the answer began."""


class Metrics:
    """Counters of one server, and gauges that read its state when they are asked."""

    def __init__(self, engine: Engine, versions: VersionsInMemory, queue: Queue) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter("medgrpo_requests", "HTTP requests.", ("route", "status", "version"), registry=registry)
        self.prompt_tokens = Counter("medgrpo_prompt_tokens", "Tokens read.", ("version",), registry=registry)
        self.completion_tokens = Counter(
            "medgrpo_completion_tokens", "Tokens generated.", ("version",), registry=registry
        )
        self.first_token = Histogram(
            "medgrpo_first_token_seconds",
            "From the request to the first text, waiting included.",
            ("version",),
            buckets=FIRST_TOKEN_S,
            registry=registry,
        )
        self.duration = Histogram(
            "medgrpo_completion_seconds",
            "From the request to the end of its completion, waiting included.",
            ("version",),
            buckets=REQUEST_S,
            registry=registry,
        )
        self.unfinished = Counter(
            "medgrpo_unfinished_completions",
            "Completions that ended early: the client left, the time was up, or the engine failed.",
            ("version", "cause"),
            registry=registry,
        )
        self.feedback = Counter("medgrpo_feedback", "Thumbs.", ("version", "thumb"), registry=registry)
        registry.register(_State(engine, versions, queue))
        ProcessCollector(registry=registry)

    def text(self) -> bytes:
        """All of it, in Prometheus's text format."""
        return generate_latest(self.registry)


class _State(Collector):
    """What is so now: it is read, not counted."""

    def __init__(self, engine: Engine, versions: VersionsInMemory, queue: Queue) -> None:
        self._engine, self._versions, self._queue = engine, versions, queue

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily("medgrpo_requests_running", "Requests that generate.", self._queue.running)
        yield GaugeMetricFamily("medgrpo_requests_waiting", "Requests that wait.", self._queue.waiting)
        yield CounterMetricFamily("medgrpo_swaps", "Versions that took over.", self._versions.swaps)
        problem = GaugeMetricFamily("medgrpo_follow_problem", "1: the newest promotion isn't followed; see /health.")
        problem.add_metric([], float(bool(self._versions.problem)))
        yield problem
        fault = GaugeMetricFamily("medgrpo_engine_fault", "1: the engine can't answer; see /ready.")
        fault.add_metric([], float(bool(self._engine.fault())))
        yield fault
        yield CounterMetricFamily(
            "medgrpo_engine_restarts", "Times that the engine had died and was started anew.", self._engine.restarts
        )
        labels = ("role", "version", "run_id", "dataset_digest", "base")
        info = GaugeMetricFamily("medgrpo_version_info", "What is loaded, by its role.", labels=labels)
        for role, served in self._versions.served().items():
            info.add_metric([role, served.version, served.run_id, served.dataset_digest, served.base], 1)
        yield info
