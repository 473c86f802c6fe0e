"""MLflow traces: of a training's groups, a span per completion, in its run; of what people asked a served version."""

from collections.abc import Sequence
from typing import Any

from medgrpo.errors import TrackingError
from medgrpo.settings import Settings
from medgrpo.tracking import connect
from medgrpo.types import Frozen

PLACE_TAG = "medgrpo.rollout"
"""Tag with a group's place in its training, `step/group`: what is there is not sent again."""
PAGE = 500
"""Traces that a search gives at once."""


class GroupTrace(Frozen):
    """One group, as its trace shows it."""

    step: int
    group: int
    example: str
    """Id of the example."""
    prompt: str
    """The message that asks the question."""
    used: bool
    """Whether the group was trained on, or was replaced by a redraw."""
    completions: tuple[dict[str, Any], ...]
    """For each its text (`completion`) and its figures."""

    @property
    def place(self) -> str:
        """Where the group stands in its training."""
        return f"{self.step}/{self.group}"


class RequestTrace(Frozen):
    """A request that a version answered, as its trace shows it."""

    id: str
    """Id of the completion."""
    version: str
    """The model version's name and number, `medgrpo-laptop/3`."""
    run_id: str
    """The run that trained it."""
    turns: tuple[dict[str, str], ...]
    completion: str
    figures: dict[str, float | int | str | bool | None]
    """How it was decoded, its tokens, its times."""
    begun_ns: int
    """When it was asked, in nanoseconds since 1970."""
    ended_ns: int


def log_request(request: RequestTrace, settings: Settings) -> None:
    """Send a request's trace to its version's experiment, linked to the version's LoggedModel. Mask it before."""
    import mlflow

    client = connect(settings)
    name, _, number = request.version.rpartition("/")
    # A version's own model_id isn't stored; its source is the LoggedModel that it was made from.
    model_id = client.get_model_version(name, number).source.removeprefix("models:/")
    span = mlflow.start_span_no_context(
        "chat completion",
        span_type="CHAT_MODEL",
        inputs={"messages": list(request.turns)},
        attributes=dict(request.figures),
        tags={"medgrpo.completion": request.id, "medgrpo.version": request.version},
        metadata={"mlflow.modelId": model_id},
        experiment_id=client.get_run(request.run_id).info.experiment_id,
        start_time_ns=request.begun_ns,
    )
    span.end(outputs=request.completion, end_time_ns=request.ended_ns)
    mlflow.flush_trace_async_logging()


def log_traces(run_id: str, groups: Sequence[GroupTrace], settings: Settings) -> None:
    """Send the groups that the run doesn't have yet, and see that they arrived.

    Raises:
        TrackingError: some didn't.
    """
    import mlflow

    client = connect(settings)
    experiment = client.get_run(run_id).info.experiment_id
    there = traced_places(run_id, settings)
    wanted = [group for group in groups if group.place not in there]
    for group in wanted:
        _send(group, run_id, experiment)
    mlflow.flush_trace_async_logging()
    lost = {group.place for group in wanted} - traced_places(run_id, settings)
    if lost:
        raise TrackingError(f"{len(lost)} of {len(wanted)} traces didn't arrive")


def traced_places(run_id: str, settings: Settings) -> set[str]:
    """Places of the groups that a run has traces of."""
    client = connect(settings)
    locations = [client.get_run(run_id).info.experiment_id]
    places, token = set(), None
    while True:
        page = client.search_traces(
            locations=locations, run_id=run_id, max_results=PAGE, page_token=token, include_spans=False
        )
        places |= {trace.info.tags[PLACE_TAG] for trace in page if PLACE_TAG in trace.info.tags}
        token = page.token
        if not token:
            return places


def _send(group: GroupTrace, run_id: str, experiment: str) -> None:
    import mlflow

    tags = {"step": group.step, "group": group.group, "example": group.example, "used": str(group.used).lower()}
    root = mlflow.start_span_no_context(
        f"step {group.step}, group {group.group}",
        inputs={"prompt": group.prompt},
        tags={PLACE_TAG: group.place, **{f"medgrpo.{name}": str(value) for name, value in tags.items()}},
        metadata={"mlflow.sourceRun": run_id},
        experiment_id=experiment,
    )
    for number, figures in enumerate(group.completions):
        attributes = {name: value for name, value in figures.items() if name != "completion"}
        span = mlflow.start_span_no_context(f"completion {number}", parent_span=root, attributes=attributes)
        span.end(outputs=figures["completion"])
    totals = [figures["total"] for figures in group.completions]
    right = sum(figures["correct"] for figures in group.completions)
    root.end(outputs={"completions": len(totals), "correct": right, "mean total": sum(totals) / len(totals)})
