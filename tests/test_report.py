"""The report: what it says in words and numbers, that it is one safe file, that odd runs don't break it."""

import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from tailsmith.metrics.accuracy import Attributes, accuracy_table
from tailsmith.metrics.intervals import tango
from tailsmith.report.content import ReportData
from tailsmith.report.document import render_report, write_report
from tailsmith.report.gallery import MOST_IMAGES, GalleryRow, data_uri, view_gallery
from tailsmith.report.headline import headline, lead
from tailsmith.report.results import difference, read_arm
from tailsmith.report.sections import added_images

NAN = float("nan")
COUNTS = {"bag": 500, "coat": 50, "sandal": 5}
VOID = {"meta", "link", "img", "input", "br", "hr"}


def cell(accuracy: float, n: int = 300, half: float = 2.0) -> dict:
    return {"accuracy": accuracy, "n": n, "low": accuracy - half, "high": accuracy + half}


def table(few: float, overall: float = 70.0, many: float = 90.0, half: float = 2.0) -> dict:
    return {
        "overall": cell(overall, 900, half),
        "shots": {"many": cell(many, 300, half), "medium": cell(72.0), "few": cell(few, 300, half)},
        "classes": {"bag": cell(many), "coat": cell(72.0), "sandal": cell(few)},
        "groups": {},
        "worst_group": {"accuracy": NAN, "n": 0, "low": NAN, "high": NAN, "group": None},
        "confusion": [[90, 5, 5], [10, 80, 10], [30, 20, 50]],
    }


def run(**changes) -> ReportData:
    data = ReportData(
        title="tiny",
        command="tailsmith run --seed 0",
        created="2026-11-22",
        dataset={"name": "tiny", "counts": COUNTS},
        target_counts=dict.fromkeys(COUNTS, 500),
        arms={"erm": table(41.2, 60.1), "feedback": table(58.9, 72.3)},
        baseline_arm="erm",
        best_arm="feedback",
    )
    return replace(data, **changes)


class Page(HTMLParser):
    """Checks that tags nest, and keeps what the page would load and what it says."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.tags: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.loads += [
            value for name, value in attributes if name in ("src", "href", "srcset", "xlink:href", "data", "action")
        ]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open[-1:] == [tag]
        self.open.pop()

    def handle_data(self, data):
        if "script" not in self.open and "style" not in self.open:
            self.text += data


def say(data: ReportData) -> tuple[str, str]:
    """Headline and the paragraph below it."""
    baseline, best = (read_arm(name, data.arms[name]) for name in (data.baseline_arm, data.best_arm))
    return headline(baseline, best), " ".join(lead(baseline, best, added_images(data)))


def photo(seed: int, size: int = 32) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)


def full_run() -> ReportData:
    rng = np.random.default_rng(0)
    values = {
        "criteria": {"entropy": {"guiding": rng.gamma(2, 0.3, 50).tolist(), "independent": rng.gamma(2, 0.2, 50)}}
    }
    quality = {"judge_agreement": 0.91, "frechet_distance": 10.0}
    return run(
        arms={"erm": table(41.2), "text": table(50.0), "feedback": table(58.9)},
        gallery=[GalleryRow("sandal", {"real": [photo(0)], "text only": [photo(1), photo(2)]}, 5)],
        samples={
            "text": {**values, **quality, "feedback_scale": 0.0},
            "feedback": {**values, **quality, "feedback_scale": 0.02, "skipped": {"gradient was zero": 3}},
            "strong": {**values, **quality, "feedback_scale": 0.04},
        },
        config_yaml="seed: 0\n",
        environment={"generator": "mini", "licences": {"data": "MIT, https://example.org"}},
        timings={"train": 12.0, "synthesize": 3720.0},
        notes=["chosen on validation"],
    )


def test_the_page_parses_and_loads_nothing_from_outside():
    page = render_report(full_run())
    parsed = Page(page)
    outside = [load for load in parsed.loads if not load.startswith(("#", "data:"))]
    assert outside == []
    assert not re.search(r"url\((?!#)|@import|<script[^>]+src|fetch\(", page)
    assert all(attributes.get("alt") for tag, attributes in parsed.tags if tag == "img" and "src" in attributes)
    assert all(attributes["aria-label"] for tag, attributes in parsed.tags if tag == "svg" and "role" in attributes)


def test_the_page_says_everything_it_was_given():
    text = Page(render_report(full_run())).text
    for expected in (
        "tailsmith run --seed 0",
        "seed: 0",
        "MIT, https://example.org",
        "1 h 02 min",
        "gradient was zero",
    ):
        assert expected in text
    for expected in ("chosen on validation", "Entropy under an independent classifier", "91.0"):
        assert expected in text


def test_every_chart_takes_its_colours_from_the_theme():
    page = render_report(full_run())
    charts = re.findall(r'<svg class="chart".*?</svg>', page, flags=re.DOTALL)
    assert len(charts) >= 9
    for chart in charts:
        used = set(re.findall(r"#[0-9a-f]{6}", " ".join(re.findall(r'style="[^"]*"', chart))))
        assert used <= {"#ffffff"}, "a colour that one of the two themes would swallow"
    variables = set(re.findall(r"var\((--[a-z0-9]+)\)", page))
    assert variables <= set(re.findall(r"(--[a-z0-9]+):", page))


def test_headline_and_lead_stand_on_top_of_the_page():
    text = " ".join(Page(render_report(run())).text.split())
    title, words = say(run())
    assert text.index(title) < text.index(words) < text.index("What was added")


def test_every_arm_can_be_hidden_in_the_charts():
    page = render_report(full_run())
    boxes = {attributes["data-arm"] for tag, attributes in Page(page).tags if "data-arm" in attributes}
    assert boxes == set(re.findall(r'<g class="arm-(\d+)"', page)) == {"0", "1", "2"}


def test_headline_of_a_gain_names_the_figures_n_and_interval():
    title, words = say(run())
    assert title == "Few-shot accuracy 41.2 → 58.9 (+17.7), overall 60.1 → 72.3 (+12.2)"
    assert "on 300 real test images of the few-shot classes" in words
    half = math.hypot(2, 2)
    assert f"95 % interval of +{17.7 - half:.1f} to +{17.7 + half:.1f} points" in words
    assert "945 synthetic images" in words
    assert "What it cost" not in words


def test_headline_says_when_nothing_was_gained_or_it_cannot_be_told():
    assert say(run(arms={"erm": table(58.9), "feedback": table(58.0)}))[0].startswith("Nothing gained: few-shot")
    title, words = say(run(arms={"erm": table(58.0), "feedback": table(58.9)}))
    assert title.startswith("No clear gain: few-shot accuracy 58.0 → 58.9 (+0.9)")
    assert "it includes zero: chance alone could explain it" in words
    assert say(run(arms={"erm": table(58.9), "feedback": table(48.9)}))[0].startswith("It got worse")


def test_what_a_gain_cost_is_said():
    _, words = say(run(arms={"erm": table(41.2, many=93.0), "feedback": table(58.9, many=90.0)}))
    assert "What it cost: Many (> 100) −3.0." in words


def test_one_arm_alone_claims_nothing():
    title, words = say(run(arms={"erm": table(41.2)}, best_arm="erm"))
    assert title == "Few-shot accuracy 41.2, and no arm that improves on it"
    assert "on 300 test images (95 % interval: 39.2 to 43.2)" in words


def test_without_few_shot_classes_the_headline_is_the_worst_group_then_overall():
    tables = {}
    for name, gain in (("erm", 0.0), ("feedback", 20.0)):
        tables[name] = table(NAN)
        tables[name]["shots"]["few"] = cell(NAN, 0)
        tables[name]["groups"] = {"bag in rock": cell(20.0 + gain), "bag in water": cell(80.0)}
        tables[name]["group_shots"] = {"minority": cell(20.0 + gain), "unseen": cell(NAN, 0)}
        tables[name]["worst_group"] = cell(20.0 + gain) | {"group": "bag in rock"}
    assert say(run(arms=tables))[0].startswith("Worst-group accuracy 20.0 → 40.0 (+20.0), overall")
    for each in tables.values():
        del each["worst_group"], each["groups"], each["group_shots"]
    assert say(run(arms=tables))[0] == "Nothing gained: overall accuracy 70.0 → 70.0 (±0.0)"


def test_no_test_image_at_all():
    empty = {"overall": cell(NAN, 0), "shots": {}}
    title, _ = say(run(arms={"erm": empty, "feedback": empty}))
    assert title == "No test images: nothing can be said about accuracy"


@pytest.mark.parametrize("nothing", [NAN, None], ids=["NaN", "null, as JSON has it"])
def test_a_class_without_test_images_shows_a_dash_and_never_nan(nothing):
    tables = {"erm": table(41.2), "feedback": table(58.9)}
    for each in tables.values():
        each["classes"]["coat"] = {"accuracy": nothing, "n": 0, "low": nothing, "high": nothing}
        each["shots"]["medium"] = {"accuracy": nothing, "n": 0, "low": nothing, "high": nothing}
    page = render_report(run(arms=tables))
    assert page.count('<abbr title="no test images">–</abbr>') == 5  # 2 arms x (shot, class), and the tile
    assert not re.search(r"\bnan\b", page, flags=re.IGNORECASE)


def test_names_with_markup_are_escaped_everywhere():
    evil = '<script>alert("x")</script>$a_1$'
    tables = {f"{evil} arm": table(41.2), "feedback": table(58.9)}
    for each in tables.values():
        each["classes"] = {evil: cell(50.0), "coat": cell(1.0), "sandal": cell(2.0)}
        each["groups"] = {f"{evil} in rock": cell(3.0)}
    data = replace(
        full_run(),
        title=evil,
        command=evil,
        config_yaml=evil,
        dataset={"counts": {evil: 500, "coat": 50, "sandal": 5}},
        target_counts={evil: 500},
        arms=tables,
        baseline_arm=f"{evil} arm",
        gallery=[GalleryRow(evil, {evil: [photo(0)]})],
        samples={evil: {"criteria": {evil: {"guiding": [0.1, 0.2]}}, "feedback_scale": 0.0, "skipped": {evil: 1}}},
        environment={evil: evil},
        notes=[evil],
    )
    page = render_report(data)
    parsed = Page(page)
    assert "<script>alert" not in page
    assert [tag for tag, _ in parsed.tags].count("script") == 1
    assert parsed.text.count(evil) >= 10


def test_a_thousand_classes_stay_small_and_show_the_rarest():
    rng = np.random.default_rng(0)
    counts = {f"class {i:03d}": int(1280 * 256 ** (-i / 999)) for i in range(1000)}
    tables = {}
    for name in ("erm", "text", "feedback"):
        classes = {
            each: cell(float(accuracy), 50) for each, accuracy in zip(counts, rng.uniform(5, 95, 1000), strict=True)
        }
        confusion = rng.integers(0, 3, (1000, 1000)).tolist()
        tables[name] = table(30.0) | {"classes": classes, "confusion": confusion}
    gallery = [
        GalleryRow(name, {column: [photo(i, 64) for i in range(6)] for column in "abcd"})
        for name in list(counts)[::-1][:40]
    ]
    page = render_report(
        run(
            dataset={"counts": counts},
            target_counts=dict.fromkeys(counts, 1300),
            arms=tables,
            gallery=gallery,
        )
    )
    parsed = Page(page)
    assert len(page.encode()) < 3_000_000
    assert "class 970" in parsed.text
    assert "class 969" not in parsed.text
    assert "970 others are in evaluation.json" in parsed.text
    assert "28 more classes are left out" in parsed.text


def test_two_classes_and_nothing_optional():
    bare = {"overall": cell(60.0), "shots": {"many": cell(60.0), "medium": cell(NAN, 0), "few": cell(NAN, 0)}}
    data = run(dataset={"counts": {"cat": 300, "dog": 0}}, target_counts={}, arms={"a": bare, "b": bare})
    page = render_report(replace(data, baseline_arm="a", best_arm="b"))
    text = Page(page).text
    assert "infinite, a class has no image" in text
    assert "Feedback that was skipped" not in text
    for absent in ('id="groups"', 'id="confusion"', 'id="images"', 'id="feedback"', 'id="classes"'):
        assert absent not in page


def test_seeds_show_mean_and_standard_deviation():
    few = {"erm": [40.0, 42.0, 44.0], "feedback": [50.0, 53.0, 53.0]}
    data = run(arms={name: [table(value) for value in values] for name, values in few.items()})
    page = render_report(data)
    title, words = say(data)
    assert title.startswith("Few-shot accuracy 42.0 → 52.0 (+10.0)")
    expected = stats.ttest_rel(few["feedback"], few["erm"]).confidence_interval(0.95)
    assert f"+{expected.low:.1f} to +{expected.high:.1f} points (over 3 paired seeds)" in words
    assert f"± {np.std(few['erm'], ddof=1):.1f}" in page
    assert f"(SE {np.std(few['erm'], ddof=1) / math.sqrt(3):.1f})" in page
    assert "standard deviation over 3 seeds" in page


def test_difference_of_independent_proportions_is_newcombes():
    """Oracle: 56/70 against 48/80 in Newcombe 1998, table II, column (a), method 10: 0.0524 to 0.3339."""

    def wilson(k: int, n: int) -> dict:
        ends = stats.binomtest(k, n).proportion_ci(method="wilson")
        return {"overall": {"accuracy": 100 * k / n, "n": n, "low": 100 * ends.low, "high": 100 * ends.high}}

    found = difference(read_arm("a", wilson(48, 80)), read_arm("b", wilson(56, 70)), "overall")
    assert (found.gain, found.low, found.high) == pytest.approx((20.0, 5.24, 33.39), abs=0.005)
    assert found.verdict == "gain"


def measured(few_right: str, attributes: bool = False) -> dict:
    """An accuracy table of two test images per class, of which those of the rare class "sandal" are right or not."""
    right = np.array([1, 1, 1, 0, *map(int, few_right)])
    labels = np.repeat([0, 1, 2], 2)
    return accuracy_table(
        np.where(right, labels, (labels + 1) % 3),
        labels,
        class_names=tuple(COUNTS),
        train_counts=list(COUNTS.values()),
        attributes=Attributes(np.tile([0, 1], 3), ("rock", "water")) if attributes else None,
        image_ids=[f"image {row}" for row in range(6)],
    )


def test_arms_on_the_same_test_images_are_compared_in_pairs_and_others_as_independent():
    before, after = read_arm("a", measured("00")), read_arm("b", measured("11"))
    found = difference(before, after, "shots", "few")
    low, high = tango(np.array(1.0), np.array(0.0), np.array(2.0))
    assert (found.gain, found.low, found.high) == (100, pytest.approx(100 * low), pytest.approx(100 * high))
    assert found.basis == "in pairs, over the same test images"
    other = measured("11")
    other["images"] = other["images"] | {"ids_sha256": "of others"}
    assert difference(before, read_arm("b", other), "overall").basis.endswith(
        "taken as independent, as their test images differ"
    )
    del other["images"]  # a table of an earlier version
    assert difference(before, read_arm("b", other), "overall").basis.endswith("taken as independent")


def test_a_difference_of_nothing_has_width():
    arm = read_arm("a", measured("11", attributes=True))
    for keys in (("overall",), ("average",), ("shots", "few"), ("classes", "bag"), ("worst_group",)):
        found = difference(arm, arm, *keys)
        assert found.gain == 0 and found.verdict == "unclear"
        assert found.low < -5 and found.high > 5


def test_seeds_that_all_differ_by_the_same_are_not_certain():
    before, after = read_arm("a", [measured("00")] * 3), read_arm("b", [measured("11")] * 3)
    one = difference(read_arm("a", measured("00")), read_arm("b", measured("11")), "shots", "few")
    found = difference(before, after, "shots", "few")
    assert (found.gain, found.low, found.high) == pytest.approx((100, one.low, one.high))
    spread = read_arm("b", [measured("11"), measured("01"), measured("11")])
    assert difference(before, spread, "shots", "few").basis == "over 3 paired seeds"


def test_classes_without_test_images_and_the_bias_of_the_worst_group_are_said_where_the_numbers_stand():
    tables = {name: measured(right, attributes=True) for name, right in (("erm", "00"), ("feedback", "11"))}
    for each in tables.values():
        each["shots"]["few"] |= {"classes": 1, "of": 3}
        each["worst_group"]["bias"] = -12.34
    data = run(arms=tables)
    assert "few-shot classes (1 of 3 classes has test images)" in say(data)[1]
    text = " ".join(Page(render_report(data)).text.split())
    assert "Few (< 20) 0.0 →100.0 +100.01 of 3 classes has test images" in text.replace("\u00a0", " ")  # the tile
    assert "Few (< 20): 1 of 3 classes has test images." in text  # under the table
    assert "Worst group of “erm”: the lowest of 6 groups' accuracies is biased downwards" in text
    assert "by about 12.3 points; its 95 % interval allows for that." in text


def test_the_average_over_images_stands_beside_overall_where_they_differ():
    tables = {name: table(41.2) | {"average": cell(70.0)} for name in ("erm", "feedback")}
    assert "Average over images" not in Page(render_report(run(arms=tables))).text
    tables["feedback"]["average"] = cell(75.0)
    text = Page(render_report(run(arms=tables))).text
    assert "Average over images" in text and "75.0" in text


def test_each_axis_and_row_holds_one_criterion():
    samples = {
        "feedback": {"criteria": {"entropy": {"guiding": [1.0, 1.9]}}, "feedback_scale": 0.02},
        "combined": {
            "criteria": {"entropy": {"guiding": [1.5, 1.7]}, "hardness": {"guiding": [3000.0, 3242.0]}},
            "feedback_scale": 0.03,
        },
    }
    page = render_report(run(samples=samples))
    titles = re.findall(r'aria-label="([^"]* under [^"]*)"', page)
    assert titles == ["Entropy under the guiding classifier, per arm", "Hardness under the guiding classifier, per arm"]
    for criterion, means in {"Entropy": ("1.45", "1.60"), "Hardness": ("3121.00",)}.items():
        chart = re.search(rf'<svg[^>]*aria-label="{criterion} under.*?</svg>', page, flags=re.DOTALL)
        assert chart is not None
        assert set(re.findall(r">(\d+\.\d\d)<", chart[0])) == set(means)
    rows = re.findall(r"<td>(entropy|hardness)</td><td class=\"n\">\s*([\d.]+)", page)
    assert rows == [("entropy", "1.450"), ("entropy", "1.600"), ("hardness", "3121.000")]


def test_what_got_worse_overall_is_said_first():
    worse = {"erm": table(41.2, 72.3), "feedback": table(42.0, 60.1)}
    assert say(run(arms=worse))[0].startswith(
        "It got worse overall: few-shot accuracy 41.2 → 42.0 (+0.8), overall 72.3 → 60.1"
    )
    bought = {"erm": table(41.2, 72.3), "feedback": table(58.9, 60.1)}
    assert say(run(arms=bought))[0].endswith("overall 72.3 → 60.1 (−12.2): overall it got worse")


def test_a_wide_interval_is_no_absence_of_an_effect():
    arms = {name: table(few, half=9.0) for name, few in (("erm", 41.2), ("text", 58.0), ("feedback", 58.9))}
    text = Page(render_report(replace(full_run(), arms=arms))).text
    assert "“feedback” against “text”: too few test images or seeds to tell, few-shot accuracy +0.9 points" in text


def test_feedback_is_judged_against_the_unguided_arm_and_not_the_baseline():
    text = Page(render_report(full_run())).text
    assert "“feedback” against “text”: feedback helped, few-shot accuracy +8.9 points" in text
    weak = replace(full_run(), arms={"erm": table(41.2), "text": table(58.0), "feedback": table(58.9)})
    assert "“feedback” against “text”: no measurable effect of feedback" in Page(render_report(weak)).text
    samples = {name: dict(entry) for name, entry in full_run().samples.items()}
    samples["feedback"]["reference"] = "erm"
    text = Page(render_report(replace(full_run(), samples=samples))).text
    assert "“feedback” against “erm”: feedback helped, few-shot accuracy +17.7" in text


def test_samples_without_values_are_not_measured_rather_than_zero():
    page = render_report(
        run(samples={"feedback": {"feedback_scale": 0.02, "criteria": {"loss": {"guiding": [None, NAN]}}}})
    )
    assert page.count('<abbr title="not measured">–</abbr>') == 7
    assert "so this run can't say" in Page(page).text.replace("’", "'")


def test_how_near_the_samples_are_stands_in_a_table_with_their_ends():
    found = {"images": 1234, "probe_accuracy": 0.957, "probe_accuracy_features": 0.84, "judge_agreement": None}
    found |= {"frechet_distance": 1.5, "density": 0.9, "coverage": 0.75, "copies": 0.01, "features": "the judge's"}
    picture = np.zeros((8, 8, 3), np.uint8)
    ends = [GalleryRow("<mine>", {"most real-looking": [picture], "least real-looking": [picture]})]
    page = Page(render_report(run(nearness={"<mine>": found}, nearness_pictures=ends)))
    assert "How near are they to real images?" in page.text and "least real-looking" in page.text
    rows = page.text[page.text.index("near copies") :]
    assert all(each in rows for each in ("<mine>", "1,234", "95.7", "84.0", "1.50", "0.75", "1.0", "the judge's"))
    assert "How near are they" not in Page(render_report(run())).text


def test_small_images_are_kept_pixel_for_pixel_and_large_ones_shrink():
    import base64
    import io

    def decode(uri: str) -> Image.Image:
        return Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1])))

    array = photo(0)
    np.testing.assert_array_equal(np.asarray(decode(data_uri(array))), array)
    np.testing.assert_array_equal(np.asarray(decode(data_uri(array.transpose(2, 0, 1)))), array)
    np.testing.assert_array_equal(np.asarray(decode(data_uri(Image.fromarray(array)))), array)
    large = Image.fromarray(photo(0, 256))
    assert max(decode(data_uri(large)).size) == 96
    assert large.size == (256, 256)


def test_float_images_are_refused():
    with pytest.raises(ValueError, match=r"got float32 \[32, 32, 3\], expected a PIL image or uint8"):
        data_uri(np.zeros((32, 32, 3), np.float32))


def test_gallery_fills_missing_columns_and_bounds_the_images():
    view = view_gallery([GalleryRow("a", {"real": [photo(0)] * 9}), GalleryRow("b", {"text": [photo(1)]})])
    assert view.titles == ("real", "text")
    assert [[len(each.uris) for each in cells] for _, _, cells in view.rows] == [[6, 0], [0, 1]]
    many = view_gallery([GalleryRow("a", {str(column): [photo(0)] * 6 for column in range(10)})] * 12)
    assert sum(len(each.uris) for _, _, cells in many.rows for each in cells) <= MOST_IMAGES
    assert many.left_out == 7


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"best_arm": "x"}, "best_arm: got 'x', expected one of the arms: erm, feedback"),
        ({"dataset": {}}, "dataset: expected 'counts'"),
        ({"target_counts": {"hat": 9}}, r"target_counts: got classes that dataset\['counts'\] lacks: hat"),
        (
            {"arms": {"erm": [], "feedback": table(1.0)}},
            "arm 'erm': expected an accuracy table with 'overall'",
        ),
    ],
)
def test_contradictory_data_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        render_report(run(**changes))


def test_the_same_data_give_the_same_bytes_in_a_file(tmp_path):
    first = write_report(full_run(), tmp_path / "a" / "report.html")
    second = write_report(full_run(), tmp_path / "report.html")
    assert first.read_bytes() == second.read_bytes()
    assert first.read_text(encoding="utf-8").startswith("<!doctype html>")
