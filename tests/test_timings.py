"""Time per stage: it adds up over runs, and interrupted time counts."""

from pathlib import Path

import pytest

from tailsmith.runs import directory as run_directory
from tailsmith.runs.directory import RunDirectory


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, ValueError, SystemExit])
def test_interrupted_time_counts(
    interruption: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 7.5, 100.0, 102.0])
    monkeypatch.setattr(run_directory.time, "monotonic", lambda: next(clock))
    directory = RunDirectory(tmp_path)
    with pytest.raises(interruption), directory.timed("train erm"):
        raise interruption
    assert directory.timings() == {"train erm": 7.5}
    with directory.timed("train erm"):
        pass
    assert directory.timings() == {"train erm": 9.5}


def test_what_interrupted_is_reported_even_where_the_time_can_not_be_written(tmp_path: Path) -> None:
    (tmp_path / "timings.json").mkdir()
    with pytest.raises(KeyboardInterrupt), RunDirectory(tmp_path).timed("train erm"):
        raise KeyboardInterrupt
