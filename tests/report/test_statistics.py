"""The statistics of a table: against scipy, against numbers computed by hand, and as properties."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mimbench.report.statistics import CONSTANT, ONE_PAIR, compare, holm, judge, summarize

scores = st.floats(0, 100).map(lambda value: round(value, 2))
seeds = st.dictionaries(st.integers(0, 20), scores, min_size=1, max_size=8)
p_values = st.dictionaries(st.text("abcdef", min_size=1, max_size=3), st.floats(0, 1), min_size=1, max_size=8)


def test_mean_sd_and_interval_match_those_computed_by_hand():
    summary = summarize([60.0, 62.0, 64.0])
    assert (summary.n, summary.mean, summary.sd) == (3, 62.0, 2.0)
    half = 4.302652729911275 * 2.0 / math.sqrt(3)  # t quantile for two degrees of freedom
    assert summary.low == pytest.approx(62.0 - half)
    assert summary.high == pytest.approx(62.0 + half)


def test_two_seeds_give_a_wide_interval():
    summary = summarize([60.0, 61.0])
    assert summary.high - summary.low == pytest.approx(2 * 12.706204736432095 * math.sqrt(0.5) / math.sqrt(2))


def test_one_seed_has_no_interval():
    summary = summarize([61.3])
    assert (summary.n, summary.mean, summary.sd, summary.low) == (1, 61.3, None, None)


def test_identical_seeds_have_no_interval_instead_of_one_of_zero_width():
    summary = summarize([0.1 + 0.2, 0.3, 0.3])
    assert (summary.sd, summary.low) == (0.0, None)


def test_the_paired_test_equals_scipys_over_the_shared_seeds():
    row, base = {0: 61.0, 1: 59.5, 2: 64.0, 9: 1.0}, {0: 60.0, 1: 60.0, 2: 61.0, 7: 99.0}
    comparison = compare(row, base)
    expected = stats.ttest_rel([61.0, 59.5, 64.0], [60.0, 60.0, 61.0])
    assert comparison.n == 3
    assert comparison.difference == pytest.approx(3.5 / 3)
    assert comparison.p == pytest.approx(expected.pvalue)
    assert (comparison.low, comparison.high) == pytest.approx(tuple(expected.confidence_interval()))
    assert comparison.differences == ((0, 1.0), (1, -0.5), (2, 3.0))


def test_without_a_shared_seed_there_is_no_comparison():
    assert compare({0: 1.0}, {1: 1.0}) is None


def test_one_shared_seed_gives_a_difference_and_no_test():
    comparison = judge({"row": compare({0: 61.0}, {0: 60.0})}, primary="row", family=0)["row"]
    assert (comparison.difference, comparison.p, comparison.verdict) == (1.0, None, ONE_PAIR)


@pytest.mark.parametrize("shift", [0.0, 5.0])
def test_a_difference_that_does_not_vary_is_not_tested(shift):
    base = {0: 60.3, 1: 61.3}
    comparison = compare({seed: value + shift for seed, value in base.items()}, base)
    assert (comparison.p, comparison.low, comparison.verdict) == (None, None, CONSTANT)


def test_holm_matches_values_computed_by_hand():
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx({"a": 0.03, "c": 0.06, "b": 0.06})
    assert holm({"a": 0.01, "b": 0.04}, family=4) == pytest.approx({"a": 0.04, "b": 0.12})
    assert holm({"a": 0.9, "b": 0.8}) == {"a": 1.0, "b": 1.0}
    assert holm({}) == {}


def test_the_primary_comparison_is_unadjusted_and_the_others_are_holm_adjusted():
    base = {0: 60.0, 1: 60.0, 2: 60.0}
    row = {0: 61.0, 1: 61.6, 2: 61.3}  # p = 0.017
    judged = judge({name: compare(row, base) for name in ("primary", "one", "two", "three")}, "primary", family=3)
    assert judged["primary"].p < 0.05
    assert judged["primary"].p_holm is None
    assert (judged["primary"].verdict, judged["primary"].primary) == ("higher", True)
    assert judged["one"].p_holm == pytest.approx(3 * judged["one"].p)
    assert judged["one"].verdict == "not significant"
    alone = judge({"one": compare(row, base)}, "primary", family=1)["one"]
    assert alone.verdict == "higher"


def test_a_significantly_lower_row_has_the_verdict_lower():
    comparison = compare({0: 50.0, 1: 51.1, 2: 50.2}, {0: 60.0, 1: 61.0, 2: 60.0})
    assert judge({"row": comparison}, None, family=1)["row"].verdict == "lower"


@given(st.lists(scores, min_size=1, max_size=8), st.randoms())
def test_the_order_of_seeds_does_not_change_the_statistics(values, random):
    shuffled = list(values)
    random.shuffle(shuffled)
    assert summarize(values) == summarize(shuffled)


@given(st.lists(scores, min_size=2, max_size=8))
def test_an_interval_contains_its_mean_and_agrees_with_scipy(values):
    summary = summarize(values)
    if summary.low is None:
        assert max(values) == min(values)
        return
    assert summary.low < summary.mean < summary.high
    assert summary.sd == pytest.approx(stats.tstd(values))
    low, high = stats.t.interval(0.95, len(values) - 1, stats.tmean(values), stats.sem(values))
    assert (summary.low, summary.high) == pytest.approx((low, high))


@given(seeds, seeds)
def test_pairing_ignores_unshared_seeds_and_changes_sign_when_the_sides_are_swapped(row, base):
    there, back = compare(row, base), compare(base, row)
    shared = set(row) & set(base)
    if not shared:
        assert there is None
        assert back is None
        return
    assert there.n == len(shared)
    assert there.difference == pytest.approx(-back.difference, abs=1e-12)
    assert there == compare({s: row[s] for s in shared}, {s: base[s] for s in shared})
    if there.p is not None:
        assert there.p == pytest.approx(back.p)
        assert there.low <= there.difference <= there.high


@given(p_values, st.integers(0, 12))
def test_holm_never_lowers_a_p_value_keeps_their_order_and_grows_with_the_family(values, family):
    adjusted, larger = holm(values, family), holm(values, family + 1)
    ordered = sorted(values, key=lambda name: values[name])
    assert all(values[name] <= adjusted[name] <= larger[name] <= 1 for name in values)
    assert all(adjusted[a] <= adjusted[b] for a, b in itertools.pairwise(ordered))
