"""What a plan would add, by name: of a dataset, or of a benchmark's published numbers without its images."""

from __future__ import annotations

from tailsmith import stages
from tailsmith.config import SynthesisConfig
from tailsmith.data.benchmarks import Benchmark, missing_from_totals, published
from tailsmith.data.dataset import Dataset
from tailsmith.synthesis.allocation import Target
from tailsmith.synthesis.requests import Plan


def to_add(dataset: Dataset, target: Target, per: str) -> dict[str, int]:
    """Class or group -> how many images it lacks."""
    names = dataset.group_names if per == "group" else dataset.class_names
    return dict(zip(names, stages.missing(dataset, target, per).ravel().tolist(), strict=True))


def published_requests(
    benchmark: Benchmark, target: Target, *, per: str, config: SynthesisConfig, generator: str
) -> tuple[int, dict[str, int]]:
    """How many requests the published numbers make, and what each class lacks (empty where only totals are known).

    With published counts per class these are the requests of a whole plan, conditioned on images that have a number
    and no file; with totals it's a subtraction.
    """
    if not benchmark.train_counts():
        return missing_from_totals(benchmark, target, per), {}
    dataset = published(benchmark)
    made = stages.plan(dataset, target, per=per, config=config, generator=generator)
    return len(made), to_add(dataset, target, per)


def with_dtype(plan: Plan, dtype: str) -> Plan:
    """The same requests for the generator in another precision, which makes slightly other images: another plan."""
    return Plan(plan.table, {**plan.meta, "synthesis": {**plan.meta["synthesis"], "dtype": dtype}})
