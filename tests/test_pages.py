"""The pages of results and methods: what they say of results there are, and of those there aren't."""

from tailsmith.files import write_json
from tailsmith.reproduction.pages import Stored, methods_page, read_results, results_page


def stored(row: str, values: list[float], column: str = "few") -> list[Stored]:
    return [Stored(row, seed, {"test": {column: each, "overall": each}}) for seed, each in enumerate(values)]


def test_a_claim_without_results_is_not_run_yet_and_one_with_them_is_judged():
    rows = [*stored("half and half", [55.0, 56.0, 57.0]), *stored("in proportion", [50.0, 50.5, 51.0])]
    page = results_page({"mini-batches": rows}, "../results")
    assert "| (h) Mini-batches half real, half synthetic beat mixing in proportion. | holds |" in page
    assert "| half and half | in proportion | overall | +5.5, +4.26 to +6.74 | above 0 | 3 |" in page
    assert "(a) Feedback by entropy beats" in page and "| not run yet (table-1) |" in page
    assert "[table](../results/mini-batches.md)" in page and "](../results/table-1" not in page


def test_methods_are_held_against_erm():
    rows = [*stored("erm", [10.0, 11.0, 12.0]), *stored("focal", [12.0, 13.5, 14.0])]
    page = methods_page({"methods": rows}, {"erm": 1.0, "focal": 1.07})
    assert "| focal | `focal` | 13.2 ± 1.0 | – | – | 13.2 ± 1.0 (+2.17, +1.45 to +2.88) | 1.07 |" in page
    assert "| erm | `erm` | 11.0 ± 1.0 | – | – | 11.0 ± 1.0 | 1.00 |" in page
    assert page.rstrip().endswith("Not run yet.")


def test_only_results_of_the_embedded_scale_are_read(tmp_path):
    row = {"row": "150", "seed": 0, "test": {"few": 1.5, "many": None}, "samples": {"coverage": 0.5}}
    for name, scale in (("dose", "embedded"), ("table-1", "tiny")):
        write_json(tmp_path / f"{name}.json", {"scale": scale, "rows": [row]})
    (found,) = read_results(tmp_path)["dose"]
    assert read_results(tmp_path).keys() == {"dose"}
    assert found.value("few") == 1.5 and found.value("samples.coverage") == 0.5
    assert found.value("many") != found.value("many") and found.value("validation.few") != found.value("validation.few")
