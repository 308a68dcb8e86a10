"""Variance components of nested seeds: against closed forms, another implementation and a simulation; and in a report."""

import csv
import functools
import itertools
import math
import operator
import random

import numpy as np
import pytest
from scipy import stats
from synthetic_grid import FINETUNE, column, evaluation, finish, planned, write_grid

from mimbench.report.analysis import analyze
from mimbench.report.build import build_report
from mimbench.report.table import tabulate
from mimbench.report.variance import decompose, spread_note
from mimbench.store.results import Store

# two tokenizers, each with two pre-trainings of two evaluations
VALUES = [60.0, 62.0, 66.0, 68.0, 50.0, 52.0, 56.0, 58.0]
LEVELS = {"tokenizer": [0, 0, 0, 0, 1, 1, 1, 1], "pretrain": [0, 0, 1, 1, 2, 2, 3, 3], "evaluation": list(range(8))}


def variances(values, levels):
    return [component.variance for component in decompose(values, levels)]


def simulated(rng, shape, sds, keep=None):
    """Values of tokenizers x pre-trainings x evaluations with these SDs, and their groups."""
    a, b, n = shape
    cube = (
        rng.normal(0, sds[0], (a, 1, 1)) + rng.normal(0, sds[1], (a, b, 1)) + rng.normal(0, sds[2], (a, b, n))
    ).ravel()
    keep = np.ones(a * b * n, bool) if keep is None else keep
    number = np.arange(a * b * n)
    groups = {"tokenizer": number // (b * n), "pretrain": number // n, "evaluation": number}
    return cube[keep].tolist(), {name: of[keep].tolist() for name, of in groups.items()}


def test_balanced_components_match_those_computed_by_hand():
    # means of pre-trainings 61, 67, 51, 57; of tokenizers 64, 54. Mean squares: evaluation 8 / 4 = 2,
    # pre-training 4 x 2 x 9 / 2 = 36, tokenizer 8 x 25 / 1 = 200
    assert variances(VALUES, LEVELS) == pytest.approx([(200 - 36) / 4, (36 - 2) / 2, 2])
    assert [(c.groups, c.freedom) for c in decompose(VALUES, LEVELS)] == [(2, 1), (4, 2), (8, 4)]
    assert [c.of_mean for c in decompose(VALUES, LEVELS)] == pytest.approx([41 / 2, 17 / 4, 2 / 8])


def test_with_one_level_the_mean_squares_are_those_of_scipys_anova():
    groups = [[60.1, 61.0, 63.2], [55.0, 57.1, 58.2], [64.0, 61.9, 66.3]]
    levels = {"pretrain": [0, 0, 0, 1, 1, 1, 2, 2, 2], "evaluation": list(range(9))}
    between, within = variances(functools.reduce(operator.iadd, groups, []), levels)
    assert within == pytest.approx(np.mean([np.var(group, ddof=1) for group in groups]))
    assert (3 * between + within) / within == pytest.approx(stats.f_oneway(*groups).statistic)


def test_an_unbalanced_design_of_one_level_matches_its_textbook_formula():
    levels = {"pretrain": [0, 0, 0, 1, 2, 2], "evaluation": list(range(6))}
    values = [60.0, 63.0, 61.0, 52.0, 57.0, 58.0]
    sizes, n = np.array([3, 1, 2]), 6
    means = np.array([np.mean(values[:3]), 52.0, 57.5])
    within = sum((value - means[group]) ** 2 for value, group in zip(values, levels["pretrain"], strict=True)) / 3
    between = (sizes @ (means - np.mean(values)) ** 2) / 2
    size = (n - (sizes**2).sum() / n) / 2  # the n_0 of the one-way random-effects model
    assert variances(values, levels) == pytest.approx([(between - within) / size, within])


@pytest.mark.parametrize("lost", [[], [1, 6, 7, 12, 17]], ids=["balanced", "unbalanced"])
def test_the_estimate_is_unbiased_for_known_components(lost):
    """Mean over 400 grids of 6 x 3 x 3. An estimate with f degrees of freedom has a relative SD of about sqrt(2 / f) of its
    mean square, so that the mean of 400 lies within 4 of its standard errors, taken from the 400 themselves."""
    rng, keep = np.random.default_rng(0), np.ones(54, bool)
    keep[lost] = False
    found = np.array([variances(*simulated(rng, (6, 3, 3), (2.0, 1.0, 0.5), keep)) for _ in range(400)])
    errors = found.std(0, ddof=1) / math.sqrt(len(found))
    assert (np.abs(found.mean(0) - [4.0, 1.0, 0.25]) < 4 * errors).all()
    assert (errors < [0.2, 0.05, 0.01]).all()  # the bound above says something


@pytest.mark.parametrize("lost", [[], [1, 6, 7, 12, 17]], ids=["balanced", "unbalanced"])
def test_sums_of_squares_and_their_expectations_agree_with_projections(lost):
    """Another way to the same numbers: squares as quadratic forms y'Qy, expectations as traces tr(Q ZZ')."""
    keep = np.ones(54, bool)
    keep[lost] = False
    values, levels = simulated(np.random.default_rng(1), (6, 3, 3), (2.0, 1.0, 0.5), keep)
    design = [np.equal.outer(groups, np.unique(groups)).astype(float) for groups in levels.values()]
    projections = [np.full((len(values),) * 2, 1 / len(values)), *(z @ np.linalg.pinv(z) for z in design)]
    forms = [inner - outer for outer, inner in itertools.pairwise(projections)]
    traces = [[np.trace(form @ z @ z.T) for z in design] for form in forms]
    expected = np.linalg.solve(traces, [np.array(values) @ form @ np.array(values) for form in forms])
    assert variances(values, levels) == pytest.approx(expected.tolist())


def test_a_negative_estimate_is_kept_and_counts_as_zero():
    values = [60.0, 66.0, 61.0, 65.0, 62.0, 64.0]  # pre-trainings agree better than their evaluations allow
    first, second = decompose(values, {"pretrain": [0, 0, 1, 1, 2, 2], "evaluation": list(range(6))})
    assert first.variance < 0
    assert first.of_mean == 0.0
    assert second.of_mean > 0.0


def test_what_one_group_has_cannot_be_estimated():
    first, second = decompose([60.0, 62.0], {"pretrain": [0, 0], "evaluation": [0, 1]})
    assert (first.variance, first.freedom, first.of_mean) == (None, 0, 0.0)
    assert second.variance == pytest.approx(2.0)


def test_evaluations_without_randomness_have_a_component_of_exactly_zero():
    values = [61.1, 61.1, 61.1, 60.3, 60.3, 60.3]
    _, evaluation = decompose(values, {"pretrain": [0, 0, 0, 1, 1, 1], "evaluation": list(range(6))})
    assert evaluation.variance == 0.0


def nested(store, numbers, pretraining=2, evaluations=2):
    """Rows by name; those called scratch have no pre-training, `pixels` no tokenizer. None: not finished."""
    rows = []
    for name, values in numbers.items():
        runs = {}
        for seed, value in enumerate(values):
            own = runs.setdefault(str(seed), {})
            stages = {"tokenizer": evaluations * pretraining, "pretrain": evaluations}
            for stage, size in stages.items():
                if name != "scratch" and (name, stage) != ("pixels", "tokenizer"):
                    own[stage] = planned(store, stage, name, seed // size).name
            run = planned(store, "finetune", name, seed)
            own["finetune"] = run.name
            if value is not None:
                finish(run, evaluation(FINETUNE, value))
        rows.append({"name": name, "label": name.upper(), "runs": runs})
    write_grid(store, rows, [column(FINETUNE, "Fine-tune")], list(range(len(values))),
               nested={"pretraining": pretraining, "evaluation": evaluations})  # fmt: skip
    return analyze(store, "demo", "tiny")


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "results")


def test_means_intervals_and_tests_count_replicates_and_not_the_runs_that_share_a_tokenizer(store):
    analysis = nested(store, {"beit": VALUES, "pixels": [value + 1 for value in VALUES[:4]] + VALUES[4:]})
    beit, pixels = (analysis.cells[name, "finetune"] for name in ("beit", "pixels"))
    assert (beit.summary.n, beit.summary.mean, beit.summary.sd) == (2, 59.0, pytest.approx(math.sqrt(50)))
    assert beit.replicates == {0: 64.0, 1: 54.0}
    assert pixels.comparison.differences == ((0, 1.0), (1, 0.0))
    table = tabulate(analysis)
    assert table.long_rows[0][2] == "2"
    assert "A replicate is one tokenizer with 2 pre-trainings of 2 evaluations each" in table.legend[0]


def test_a_replicate_counts_once_all_of_its_runs_are_there(store):
    base = [60.0, 70.0, 60.0, 70.0, 50.0, 50.0, 50.0, 50.0]
    row = [61.0, 71.0, 61.0, 71.0, 52.0, 52.0, 52.0, None]
    analysis = nested(store, {"beit": base, "pixels": row})
    assert analysis.cells["pixels", "finetune"].comparison.differences == ((0, 1.0),)
    assert analysis.cells["pixels", "finetune"].replicates == {0: 66.0}  # of the second, one run is missing
    assert analysis.cells["beit", "finetune"].replicates == {0: 65.0, 1: 50.0}


def test_the_report_says_where_the_spread_comes_from_and_where_seeds_pay(store):
    analysis = nested(store, {"beit": VALUES, "pixels": VALUES, "scratch": VALUES})
    spreads = {s.cell.row.name: [c.source for c in s.components] for s in tabulate(analysis).spreads}
    assert spreads == {"beit": ["tokenizer", "pre-training", "evaluation"], "pixels": ["pre-training", "evaluation"]}
    folder, _ = build_report(store, "demo", "tiny")
    text, page = (folder / "table.md").read_text(), (folder / "index.html").read_text()
    line = "| BEIT | Fine-tune (%) | tokenizer | 2 | 1 | 6.40 | 4.53 |"
    assert line in text
    assert "more pre-trainings for PIXELS, Fine-tune." in text
    assert "for BEIT" not in text  # from one degree of freedom follows nothing
    assert "SD of the mean" in page
    with (folder / "variance.csv").open() as stream:
        lines = list(csv.DictReader(stream))
    assert [float(line["variance"]) for line in lines[:3]] == [41.0, 17.0, 2.0]


def test_the_advice_names_the_stage_that_adds_most_to_the_variance_of_the_mean(store):
    """Not the one with the largest spread: of that there may be many runs already."""
    draw = random.Random(1)
    values = []
    for _ in range(6):
        tokenizer = draw.gauss(60, 2)
        for _ in range(2):
            pretraining = tokenizer + draw.gauss(0, 0.5)
            values += [pretraining + draw.gauss(0, 2.5) for _ in range(4)]
    analysis = nested(store, {"beit": values}, pretraining=2, evaluations=4)
    (spread,) = tabulate(analysis).spreads
    components = {c.source: c for c in spread.components}
    assert components["evaluation"].variance > components["tokenizer"].variance
    assert components["evaluation"].of_mean < components["tokenizer"].of_mean
    assert "more tokenizers for BEIT, Fine-tune" in spread_note([spread])


def test_stages_that_the_seeds_do_not_separate_are_one_source(store):
    analysis = nested(store, {"beit": VALUES[:4]}, pretraining=1)
    (spread,) = tabulate(analysis).spreads
    assert [(c.source, c.groups) for c in spread.components] == [("tokenizer and pre-training", 2), ("evaluation", 4)]


def test_a_grid_whose_seeds_share_nothing_has_no_such_section(store):
    nested(store, {"beit": VALUES})
    assert (build_report(store, "demo", "tiny")[0] / "variance.csv").exists()
    nested(store, {"beit": VALUES}, pretraining=1, evaluations=1)
    folder, _ = build_report(store, "demo", "tiny")
    assert not (folder / "variance.csv").exists()
    assert "Where the spread comes from" not in (folder / "table.md").read_text() + (folder / "index.html").read_text()
