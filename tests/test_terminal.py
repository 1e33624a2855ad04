"""Names made safe to print."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path

import pytest

from folders import SOUND, write_folder
from tailsmith.cli.main import main
from tailsmith.cli.text import accuracy_text, dataset_text
from tailsmith.data.counts import describe
from tailsmith.data.dataset import Dataset, make_table
from tailsmith.files import to_json
from tailsmith.terminal import OneLineFormatter, progress_bar, shown

HOSTILE = "cat\x1b[2J\x9b31m\nblack\u202etac\udce9"
ACTED_ON = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def test_control_characters_are_shown_and_letters_stay() -> None:
    assert shown(HOSTILE) == r"cat\x1b[2J\x9b31m\nblack\u202etac\xe9"
    assert shown("\ud83d alone, tab\t, Icon\r") == r"\ud83d alone, tab\t, Icon\r"
    for name in ("T-shirt/top", "Éléphant d’Asie", "日本", "क्‍ष", "👩\u200d🚀", "a\xa0b"):
        assert shown(name) == name


def test_log_lines_are_one_line() -> None:
    record = logging.LogRecord("x", logging.WARNING, "", 0, "skipped: %s", (HOSTILE,), None)
    assert OneLineFormatter("tailsmith: %(message)s").format(record) == f"tailsmith: skipped: {shown(HOSTILE)}"


def test_tables_of_hostile_names() -> None:
    table = make_table(
        [0, 1, 0, 1], image_ids=list("abcd"), attributes=[0, 1, 0, 0], splits=["train"] * 2 + ["test"] * 2
    )
    hostile = Dataset(table, (HOSTILE, "dog"), (HOSTILE, "b"), name=HOSTILE, licence=HOSTILE)
    text = dataset_text(describe(hostile))
    assert not ACTED_ON.search(text)
    assert len(re.findall(r"^cat\\x1b", text, re.MULTILINE)) == 3  # the name, a row of classes, a row of groups
    cell = {"accuracy": 1.0, "low": 0.0, "high": 2.0, "n": 3}
    shots = dict.fromkeys(("many", "medium", "few"), cell)
    scores = {"overall": cell, "shots": shots, "groups": {"x": cell}, "worst_group": {**cell, "group": HOSTILE}}
    assert not ACTED_ON.search(accuracy_text({**scores, "classes": {HOSTILE: cell}}, "test"))


def test_json_of_hostile_names_is_safe_and_comes_back() -> None:
    text = to_json({HOSTILE: [HOSTILE, "日本\t"]})
    assert not ACTED_ON.search(text)
    assert json.loads(text) == {HOSTILE: [HOSTILE, "日本\t"]}
    assert "日本" in text


def test_inspect_prints_no_escape_sequence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "cat\x1b[31m\nx"
    counts = {
        split: {name if each == "cat" else each: n for each, n in classes.items()} for split, classes in SOUND.items()
    }
    data = write_folder(tmp_path / "pets", counts)
    (data / "train" / name / "\x1b]0;title\x07.txt").write_text("beside")
    (data / "train" / "dog" / "\x1b]0;title\x07.png").write_text("no image")
    assert main(["inspect", str(data), "--skip-corrupt"]) == 0
    printed = capsys.readouterr()
    assert "cat\\x1b[31m\\nx" in printed.out
    assert "skipped: " in printed.err
    assert "\\x1b]0;title\\x07.png is not an image file" in printed.err
    assert not ACTED_ON.search(printed.out + printed.err)
    assert main(["inspect", str(data)]) == 2
    assert not ACTED_ON.search(capsys.readouterr().err)


def test_a_bar_in_a_file_is_a_few_lines(capsys):
    for _ in progress_bar(range(10_000), desc="train"):
        pass
    lines = capsys.readouterr().err.splitlines()
    assert 1 <= len(lines) <= 3 and "\r" not in "".join(lines)
    assert lines[-1].startswith("train: 100%") and "10000/10000" in lines[-1]


def test_a_bar_on_a_terminal_is_tqdms(monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    with progress_bar(total=3, desc="train") as bar:
        assert bar.mininterval < 1 and bar.leave
