"""Whether runs were made alike, so that their numbers can be compared: refused where not at all, else said."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from tailsmith.data.fingerprint import changes
from tailsmith.errors import UserError
from tailsmith.metrics.accuracy import AccuracyTable
from tailsmith.report.compared import Check, Row, Trained, shots_of
from tailsmith.runs.finished import FinishedRun

MOST_NAMES = 6
Named = tuple[str, str]  # run, arm


def check_test_images(runs: Sequence[FinishedRun]) -> None:
    """ValueError where two runs of one data seed, or two arms of a run, were tested on other images."""
    first: dict[int, FinishedRun] = {}
    for run in runs:
        for arm, trained in run.arms.items():
            for table in trained.tables:
                if words := _differing_tables(_first_table(run), table):
                    raise UserError(
                        f"the arms of {run.path} were tested on different images ({arm}: {words}); run it anew"
                    )
        other = first.setdefault(run.config.data_seed, run)
        if words := tested_differently(other, run):
            raise UserError(
                f"{run.path} was tested on other images than {other.path}: {words}. Only accuracies on the same test "
                "images can be compared; leave one of the two out"
            )


def check_within_reach(runs: Sequence[FinishedRun], rows: Sequence[Row], baseline: Row) -> None:
    """ValueError for a row that has neither a seed nor its test images in common with the baseline."""
    named = {run.name: run for run in runs}
    for row in rows:
        if {each.seed for each in row.trained} & {each.seed for each in baseline.trained}:
            continue
        one, other = named[baseline.trained[0].run], named[row.trained[0].run]
        if words := tested_differently(one, other):
            raise UserError(
                f"{row.name} (seed {row.seeds}) has no seed in common with the baseline {baseline.name} (seed "
                f"{baseline.seeds}), and other test images: {words}. Compare runs of the same seeds, or give another "
                "--baseline"
            )


def tested_differently(one: FinishedRun, other: FinishedRun) -> str:
    """How the test images of two runs differ, in words; empty where they are the same."""
    before, now = one.part("test"), other.part("test")
    words = _differing_tables(_first_table(one), _first_table(other))
    if before is None or now is None:
        if not all(_ids(_first_table(run)) for run in (one, other)):
            return "an earlier version of tailsmith made one of them, which didn't note which images these are"
        return words
    if one.hashes["test"] != other.hashes["test"] or words:
        return changes(before, now) or words
    return ""


def protocol(runs: Sequence[FinishedRun], rows: Sequence[Row]) -> tuple[Check, ...]:
    """What should be alike for arms to differ in method and images alone, each with what was found."""
    arms = {(run.name, arm): trained for run in runs for arm, trained in run.arms.items()}
    synthetic = {key: _count(each.synthetic) for key, each in arms.items() if each.synthetic != 0}
    known = {key: value for key, value in synthetic.items() if value or _is_declared(runs, key)}
    select = {(run.name, arm): words for run in runs for arm, words in run.select_by.items()}
    checks = [
        Check("test images", True, _tested(runs)),
        _same_part("training images", "train", runs),
        _same_part("validation images, which select", "val", runs),
        _alike("validation accuracy that selects", select),
        _alike("backbone", {key: each.backbone for key, each in arms.items()}),
        _alike("training budget", {key: _budget(each) for key, each in arms.items()}),
        _alike("synthetic images of arms that have some", known),
        _alike("groups", {key: _groups(each.tables[0]) for key, each in arms.items()}),
        _shots(runs),
        _seeds(rows),
        _finished(runs),
    ]
    return tuple(checks)


def _alike(what: str, values: Mapping[Named, str | None]) -> Check:
    """One value for all, or who has which; None is unknown, and no value."""
    found: dict[str, list[Named]] = defaultdict(list)
    for key, value in values.items():
        found[value or "not known"].append(key)
    if not found:
        return Check(what, True, "none")
    considered: dict[str, set[str]] = defaultdict(set)
    for run, arm in values:
        considered[run].add(arm)
    if len(found) == 1 and "not known" not in found:
        return Check(what, True, next(iter(found)))
    return Check(what, False, "; ".join(f"{value} ({_names(keys, considered)})" for value, keys in found.items()))


def _names(keys: Sequence[Named], considered: Mapping[str, set[str]]) -> str:
    """Runs whose every arm is among the keys by their own name, others by RUN/ARM."""
    arms: dict[str, list[str]] = defaultdict(list)
    for run, arm in keys:
        arms[run].append(arm)
    names: list[str] = []
    for run, own in arms.items():
        names += [run] if set(own) == considered[run] else [f"{run}/{arm}" for arm in own]
    return _listed(names)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return ", ".join(names[:MOST_NAMES]) + more


def _same_part(what: str, split: str, runs: Sequence[FinishedRun]) -> Check:
    """By the fingerprints of the data, among runs that drew them with the same seed."""
    differing, unknown = [], [run.name for run in runs if run.data is None]
    first: dict[int, FinishedRun] = {}
    for run in runs:
        if run.data is None:
            continue
        other = first.setdefault(run.config.data_seed, run)
        if run.hashes[split] != other.hashes[split]:
            before, now = other.part(split), run.part(split)
            assert before is not None and now is not None  # as both have data
            differing.append(f"{run.name} against {other.name}: {changes(before, now)}")
    if unknown:
        differing.append(f"not known of {_listed(unknown)}, which an earlier version made")
    counts = {f"{len(part.table):,}" for run in first.values() if (part := run.part(split)) is not None}
    drawn = " of each seed" if len(first) > 1 else ""
    return Check(what, not differing, "; ".join(differing) or f"{' or '.join(sorted(counts))} images{drawn}")


def _tested(runs: Sequence[FinishedRun]) -> str:
    counts = {
        f"{int(_first_table(run).cell('average').get('n') or _first_table(run)['overall']['n']):,}" for run in runs
    }
    same = not any(tested_differently(runs[0], run) for run in runs[1:])
    return f"{' or '.join(sorted(counts))} images{'' if same else ', others with each seed of the data'}"


def _shots(runs: Sequence[FinishedRun]) -> Check:
    """Shots are by training images: of data with other counts the same word means other classes."""
    found = []
    for run in runs[1:]:
        for section, what in (("classes", "class"), ("groups", "group")):
            one, other = (shots_of(_first_table(each), section) for each in (runs[0], run))
            names = [name for name, shot in one.items() if shot and other.get(name) and other[name] != shot]
            if names:
                first = f"{names[0]}, {other[names[0]]}, but {one[names[0]]} in {runs[0].name}"
                found.append(f"{len(names)} {what if len(names) == 1 else section} of {run.name} (first: {first})")
    said = "; ".join(found[:MOST_NAMES]) + ("; and others" if len(found) > MOST_NAMES else "")
    return Check("shots of classes and groups", not found, said or "the same")


def _seeds(rows: Sequence[Row]) -> Check:
    values: dict[Named, str | None] = {}
    for row in rows:
        run, _, arm = row.name.rpartition("/")
        values[run, arm] = row.seeds
    found = _alike("seeds", values)
    more = "" if found.holds else "; differences are within the seeds that both sides have, if any"
    return replace(found, said=found.said + more)


def _finished(runs: Sequence[FinishedRun]) -> Check:
    lacking = [f"{run.name} has no result of {', '.join(run.missing)}" for run in runs if run.missing]
    return Check("all arms tested", not lacking, _listed(lacking) or "yes")


def _is_declared(runs: Iterable[FinishedRun], key: Named) -> bool:
    """An arm that the configuration knows; of others nothing says whether they have synthetic images."""
    return any(run.name == key[0] and key[1] in run.select_by for run in runs)


def _budget(trained: Trained) -> str | None:
    if trained.steps is None or trained.images_seen is None:
        return None
    return f"{trained.steps:,} steps, {trained.images_seen:,} images seen"


def _count(images: int | None) -> str | None:
    return None if images is None else f"{images:,}"


def _groups(table: AccuracyTable) -> str:
    return f"{len(table['groups']):,}" if table.get("groups") else "none"


def _first_table(run: FinishedRun) -> AccuracyTable:
    return next(iter(run.arms.values())).tables[0]


def _ids(table: AccuracyTable) -> str | None:
    return (table.get("images") or {}).get("ids_sha256")


def _differing_tables(one: AccuracyTable, other: AccuracyTable) -> str:
    """What accuracy tables alone tell of it: classes, names of the images and their order, labels."""
    if list(one.get("classes") or {}) != list(other.get("classes") or {}):
        return "their classes differ"
    if _ids(one) is None or _ids(other) is None:
        return ""
    if _ids(one) != _ids(other):
        return "the hashes of their names differ"
    return "" if one["images"]["labels"] == other["images"]["labels"] else "their labels differ"
