"""How many images each class or group lacks, for every kind of target, and what a target that makes no sense gets."""

import numpy as np
import pytest

from tailsmith.synthesis.allocation import missing_counts

NAMES = ("t-shirt", "bag", "sandal")
COUNTS = np.array([500, 8, 5])
GROUP_NAMES = tuple(f"{name} in {context}" for name in NAMES for context in ("rock", "water"))
GROUP_COUNTS = np.array([[150, 16], [4, 0], [2, 150]])


def test_max_tops_every_class_up_to_the_largest():
    assert missing_counts(COUNTS, "max", NAMES).tolist() == [0, 492, 495]


def test_max_tops_every_group_up_to_the_largest_and_keeps_the_shape():
    missing = missing_counts(GROUP_COUNTS, "max", GROUP_NAMES)
    assert missing.tolist() == [[0, 134], [146, 150], [148, 0]]


@pytest.mark.parametrize("target", [100, np.int64(100), 100.0, np.float32(100)])
def test_a_number_leaves_classes_alone_that_have_more(target):
    assert missing_counts(COUNTS, target, NAMES).tolist() == [0, 92, 95]


def test_an_exponential_profile_to_its_head_has_a_closed_form():
    """Counts 2^9, 2^8, ..., 1 topped up to 2^9: 10 * 2^9 minus the geometric sum 2^10 - 1."""
    counts = 2 ** np.arange(9, -1, -1)
    missing = missing_counts(counts, 512, [str(c) for c in range(10)])
    assert missing.sum() == 10 * 512 - 1023


def test_a_dict_tops_up_what_it_names_only():
    assert missing_counts(COUNTS, {"sandal": 50}, NAMES).tolist() == [0, 0, 45]
    missing = missing_counts(GROUP_COUNTS, {"bag in water": 7, "sandal in rock": 2}, GROUP_NAMES)
    assert missing.tolist() == [[0, 0], [0, 7], [0, 0]]


def test_whole_numbers_of_any_kind_and_names_that_are_numbers():
    counts = np.array([5, 5])
    assert missing_counts(counts, {10: 12.0, "no": np.int64(9)}, ("10", "no")).tolist() == [7, 4]


def test_a_function_maps_counts_to_targets_and_may_spoil_its_copy():
    def double(counts):
        counts *= 2
        return counts

    counts = COUNTS.copy()
    assert missing_counts(counts, double, NAMES).tolist() == COUNTS.tolist()
    assert counts.tolist() == COUNTS.tolist()


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("maximum", "'max', a number, a dict or a function of counts, got 'maximum'"),
        (True, "'max', a number, a dict or a function of counts, got True"),
        (0, "target should be at least 1 image, got 0"),
        (-3, "target should be at least 1 image, got -3"),
        (5, r"nothing to add: target 5 is not above any current count \(5 to 500\); give a larger target"),
        ({}, r"nothing to add: target \{\}"),
        ({"sandals": 50}, "target names 'sandals', which is not one of: t-shirt, bag, sandal"),
        (8.7, r"target should be a whole number, got 8\.7"),
        (None, "target should be a whole number, got None"),
        (float("nan"), "target should be a whole number, got nan"),
        ({"bag": 8.7}, r"target for 'bag' should be a whole number, got 8\.7"),
        ({"bag": None}, "target for 'bag' should be a whole number, got None"),
        ({"bag": True}, "target for 'bag' should be a whole number, got True"),
        ({"bag": "20"}, "target for 'bag' should be a whole number, got '20'"),
        (10**12, "target should be at most 2,147,483,647 images, got 1,000,000,000,000"),
        (10**400, "target should be at most 2,147,483,647 images"),
        (20_000_000, r"target 20000000 asks for 59,999,487 images, expected at most 50,000,000 in one plan"),
        (lambda counts: counts + 2**62, "asks for 13,835,058,055,282,163,712 images"),
        ({"bag": -7}, "target -7 for 'bag' is below its current count 8"),
        ({"bag": 7}, "target 7 for 'bag' is below its current count 8; tailsmith only adds images"),
        (lambda counts: counts - 1, "target 499 for 't-shirt' is below its current count 500"),
        (lambda counts: counts, "nothing to add: target of the given function"),
        (lambda counts: counts * 1.5, r"whole numbers of shape \(3,\), got float64 of shape \(3,\)"),
        (lambda counts: counts.max(), r"whole numbers of shape \(3,\), got int64 of shape \(\)"),
    ],
)
def test_targets_that_make_no_sense(target, message):
    with pytest.raises(ValueError, match=message):
        missing_counts(COUNTS, target, NAMES)


def test_a_target_below_the_count_of_a_group_names_the_group():
    with pytest.raises(ValueError, match="target 1 for 'sandal in rock' is below its current count 2"):
        missing_counts(GROUP_COUNTS, {"sandal in rock": 1}, GROUP_NAMES)


def test_a_long_list_of_known_names_is_cut():
    with pytest.raises(ValueError, match=r"class 11, \.\.\.$"):
        missing_counts(np.ones(40, dtype=np.int64), {"x": 2}, [f"class {c}" for c in range(40)])
