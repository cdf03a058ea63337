"""From names to a report: loads models, finds requests, makes what is missing, measures, and says who is better."""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from uniadgen.config import StagesConfig, nearest
from uniadgen.evaluate.cache import fingerprint_of_code
from uniadgen.evaluate.contenders import BASELINES, Contender, contenders_of, models_of, world_of
from uniadgen.evaluate.harness import CHUNK, Seeds, measure
from uniadgen.evaluate.measures import PICTURES, Setting, settings_of
from uniadgen.evaluate.pictures import PUBLISHED
from uniadgen.evaluate.report import Report
from uniadgen.evaluate.requests import Requests, WorldRequests
from uniadgen.evaluate.scorers import BY_DEFAULT, PROBES, SCORERS, scorers_of
from uniadgen.evaluate.summary import summarise
from uniadgen.metrics.pbs import NAME
from uniadgen.metrics.prompts import PROMPTS
from uniadgen.pipeline import AdGenerator

IN_WORLD = ("no_history", "unbound", "truth")  # baselines by default
ELSEWHERE = ("no_history",)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is to be compared on what."""

    models: Sequence[str]
    baselines: Sequence[str] | None = None  # None: `IN_WORLD`, or `ELSEWHERE` on one's own data
    metrics: Sequence[str] = BY_DEFAULT
    requests: int = 200
    seeds: Seeds = Seeds()  # noqa: RUF009
    reference: str = ""  # of all tests; by default the first model
    data: Path | None = None  # a dataset, JSON lines or PAd1M's JSON, instead of AdWorld
    pictures: Path | None = None
    split: str = "test"
    picture: str = "pasted"  # these three as in `Setting`; a metric whose weights are given is measured
    prompt: str = "description"
    weights: Mapping[str, str] = field(default_factory=dict)
    stages: StagesConfig | None = None  # the server that the baseline llm asks

    def __post_init__(self) -> None:
        for what, names, known in (
            ("baseline", self.baselines or (), BASELINES),
            ("metric", self.metrics, [*SCORERS, PROBES]),
            ("picture", [self.picture], PICTURES),
            ("prompt", [self.prompt], PROMPTS),
            ("metric with weights", self.weights, [*PUBLISHED, NAME]),
        ):
            if wrong := [name for name in names if name not in known]:
                raise ValueError(f"unknown {what} {wrong[0]!r}{nearest(wrong[0], list(known))}")
        if "llm" in (self.baselines or ()) and not (self.stages and self.stages.llm_url and self.stages.llm_model):
            raise ValueError(
                "the baseline llm asks a server, got none: --set stages.llm_url=http://localhost:8000/v1 "
                "--set stages.llm_model=NAME"
            )


def evaluate(plan: Plan, folder: Path) -> Report:
    """Carries a plan out in a folder, where ads are kept and the report is written. Run it again: it goes on.

    Raises `ValueError` for what the plan names and is not there.
    """
    models = models_of(plan.models)
    baselines = plan.baselines if plan.baselines is not None else IN_WORLD if plan.data is None else ELSEWHERE
    contenders = contenders_of(plan.models, models, baselines, plan.stages)
    reference = plan.reference or contenders[0].name
    if reference not in [contender.name for contender in contenders]:
        known = ", ".join(contender.name for contender in contenders)
        raise ValueError(f"the reference is {reference!r}, expected one of {known}")
    requests = _requests(plan, models, folder)
    world = requests.world if isinstance(requests, WorldRequests) else None
    setting = Setting(world, plan.picture, plan.prompt, plan.weights)
    scorers = scorers_of([*plan.metrics, *plan.weights], setting)
    folder.mkdir(parents=True, exist_ok=True)
    probing = PROBES in plan.metrics
    measured = measure(contenders, requests, scorers, folder / "ads", plan.seeds, probing=probing)
    lines = summarise(measured, {c.name: c.role for c in contenders}, reference, plan.seeds.first)
    told = {scorer.name: settings_of(scorer) for scorer in scorers}
    report = Report(tuple(lines), measured, _settings(plan, contenders, requests, reference, told))
    report.save(folder)
    return report


def make_ads(plan: Plan, folder: Path) -> None:
    """Makes the ads that `evaluate` of a plan with these models will find in that folder, and measures nothing."""
    models = models_of(plan.models)
    contenders = contenders_of(plan.models, models, plan.baselines or ())
    measure(contenders, _requests(plan, models, folder), [], folder / "ads", plan.seeds)


def render_requests(plan: Plan, folder: Path) -> None:
    """Renders what `evaluate` of a plan will find in that folder."""
    requests = _requests(plan, models_of(plan.models[:1]), folder)
    for start in range(0, len(requests), CHUNK):
        requests.load(range(start, min(start + CHUNK, len(requests))))


def _requests(plan: Plan, models: dict[str, AdGenerator], folder: Path) -> Requests:
    if plan.data is None:
        side = max(generator.config.data.image_size for generator in models.values())
        return WorldRequests(world_of(models), side, plan.requests, plan.seeds.first, folder / "requests")
    from uniadgen.data.listing import read_listing  # these need an extra, which AdWorld does not
    from uniadgen.evaluate.listed import ListedRequests

    return ListedRequests(read_listing(plan.data, plan.pictures, plan.split), plan.requests, plan.data)


def _settings(
    plan: Plan, contenders: Sequence[Contender], requests: Requests, reference: str, scorers: dict[str, Any]
) -> dict[str, Any]:
    """All that leads to the same report again."""
    left_out = [found._asdict() for found in requests.left_out]
    return {
        "reference": reference,
        "first_seed": plan.seeds.first,
        "seeds": plan.seeds.number,
        "requests": {"number": len(requests), "left_out": left_out} | requests.settings,
        "generators": {contender.name: contender.settings for contender in contenders},
        "scorers": scorers,
        "machine": {
            "code": fingerprint_of_code(),
            "torch": torch.__version__,
            "python": platform.python_version(),
            "threads": torch.get_num_threads(),
        },
    }
