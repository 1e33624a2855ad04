"""Any runs side by side: their directories read, the seeds of one configuration together, what isn't alike said."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tailsmith.errors import UserError, did_you_mean
from tailsmith.report.compared import Comparison, Row, RunFacts, Setting, Trained
from tailsmith.runs.arms import GUIDE
from tailsmith.runs.config import RunConfig
from tailsmith.runs.finished import FinishedRun, read_run
from tailsmith.runs.identity import OF_DATA, differing
from tailsmith.runs.protocol import check_test_images, check_within_reach, protocol
from tailsmith.settings import to_dict


@dataclass(frozen=True)
class Series:
    """Runs that differ in their seeds alone, each seed once."""

    name: str
    runs: tuple[FinishedRun, ...]

    def rows(self) -> list[Row]:
        arms = list(dict.fromkeys(name for run in self.runs for name in run.arms))
        return [Row(f"{self.name}/{arm}", tuple(self._trained(arm))) for arm in arms]

    def _trained(self, arm: str) -> Iterable[Trained]:
        return (run.arms[arm] for run in self.runs if arm in run.arms)


def compare(paths: Sequence[Path], baseline: str | None = None) -> Comparison:
    """Read run directories and hold them against one arm: ARM (of the first run that has it) or RUN/ARM; None = the
    first run's "erm", or its first arm.

    ValueError for a folder that is no run or has no result yet, and where runs of the same seed were tested on other
    images. Runs that differ in their seeds alone become one row per arm.
    """
    places = list({Path(path).resolve(): Path(path) for path in paths}.values())
    if not places:
        raise UserError("no run to compare: give the run directories that `tailsmith run` made")
    runs = [read_run(path, name) for path, name in zip(places, short_names(places), strict=True)]
    check_test_images(runs)
    series = grouped(runs)
    rows = [row for each in series for row in each.rows()]
    chosen = _baseline(rows, series, baseline)
    check_within_reach(runs, rows, chosen)
    facts = [RunFacts(run.name, str(run.path), run.seed, run.command, run.created) for run in runs]
    names = tuple(each.name for each in series)
    return Comparison(tuple(rows), chosen, protocol(runs, rows), tuple(facts), names, tuple(_settings(series)))


def short_names(paths: Sequence[Path]) -> list[str]:
    """As much of the end of each path as tells them apart."""
    parts = [path.resolve().parts for path in paths]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(each[-depth:]).lstrip("/") for each in parts]
        if len(set(names)) == len(names):
            break
    return names


def grouped(runs: Sequence[FinishedRun]) -> list[Series]:
    """Runs of one configuration but for the seeds, together; of several with one seed, those of one folder first."""
    found: list[list[FinishedRun]] = []
    for run in runs:
        fitting = [each for each in found if _is_seed_of(run, each[0]) and run.seed not in {one.seed for one in each}]
        beside = [each for each in fitting if each[0].path.resolve().parent == run.path.resolve().parent]
        if fitting:
            (beside or fitting)[0].append(run)
        else:
            found.append([run])
    patterns = [_pattern([run.name for run in each]) for each in found]
    long = ["+".join(run.name for run in each) for each in found]
    names = [one if patterns.count(one) == 1 else other for one, other in zip(patterns, long, strict=True)]
    return [Series(name, tuple(each)) for name, each in zip(names, found, strict=True)]


def _pattern(names: Sequence[str]) -> str:
    """What names share, with * for the rest: "seed-*"."""
    if len(names) == 1:
        return names[0]
    start = _shared_start(names)
    end = _shared_start([name[len(start) :][::-1] for name in names])[::-1]
    return f"{start}*{end}"


def _shared_start(names: Sequence[str]) -> str:
    """Without the digits that it ends in: they are part of a number."""
    length = 0
    for letters in zip(*names, strict=False):
        if len(set(letters)) > 1:
            break
        length += 1
    return names[0][:length].rstrip("0123456789")


def _is_seed_of(run: FinishedRun, other: FinishedRun) -> bool:
    one, two = _without_seeds(run.config), _without_seeds(other.config)
    return not differing(one, two) and not differing(one, two, OF_DATA)


def _without_seeds(config: RunConfig) -> RunConfig:
    """And without the list of arms: each is what it is, whichever others a run has."""
    return replace(
        config,
        data_seed=0,
        arms=(GUIDE,),
        real=replace(config.real, seed=0),
        mixed=replace(config.mixed, seed=0),
        synthesis=replace(config.synthesis, seed=0),
        search=None if config.search is None else replace(config.search, seed=0),
    )


def _baseline(rows: Sequence[Row], series: Sequence[Series], asked: str | None) -> Row:
    named = {row.name: row for row in rows}
    own = [row for row in rows if row.name in {each.name for each in series[0].rows()}]
    if asked is None:
        return named.get(f"{series[0].name}/{GUIDE}", own[0])
    run, slash, arm = asked.rpartition("/")
    for each in series:
        of_this = not slash or run == each.name or any(_is_named(run, one) for one in each.runs)
        if of_this and (found := named.get(f"{each.name}/{arm}")) is not None:
            return found
    close = did_you_mean(asked, [*named, *(row.name.rpartition("/")[2] for row in rows)])
    raise UserError(
        f"--baseline should be an arm, as in {GUIDE}, or RUN/ARM, one of {', '.join(named)}; got {asked!r}{close}"
    )


def _is_named(name: str, run: FinishedRun) -> bool:
    return name == run.name or Path(name).expanduser().resolve() == run.path.resolve()


def _settings(series: Sequence[Series]) -> Iterable[Setting]:
    """Those in which configurations differ, whatever could change a result."""
    configs = [_without_seeds(each.runs[0].config) for each in series]
    names = [name for other in configs[1:] for name in _differing(configs[0], other)]
    plain = [to_dict(config) for config in configs]
    for name in dict.fromkeys(names):
        yield Setting(name, tuple(_value(each, name) for each in plain))


def _differing(one: RunConfig, other: RunConfig) -> list[str]:
    return [*differing(one, other, OF_DATA), *differing(one, other)]


def _value(config: Any, name: str) -> str:
    for key in name.split("."):
        config = config.get(key) if isinstance(config, dict) else None
    return "none" if config is None else str(config)
