"""`mimbench show recipe` and `run`: in words, in the terminal."""

import pytest
from commands import mimbench
from synthetic_grid import demo

from mimbench.store.results import Store


def recipe(*words):
    done = mimbench("show", "recipe", *words)
    assert done.returncode == 0, done.stderr
    lines = (line.split(None, 1) for line in done.stdout.splitlines()[1:] if line)
    return {key: " ".join(rest.split()) for key, rest in lines}


def test_each_value_of_a_recipe_says_where_it_came_from():
    found = recipe(
        "ablations", "no-blockwise", "--scale", "smoke", "--set", "schedule.lr=1e-3", "--set", "encoder.drop_path=0.1"
    )
    assert found["tokenizer.type"] == "dvae base beit.yaml"
    assert found["tokenizer.vocabulary"] == "32 scale smoke.yaml parts"
    assert found["masker.type"] == "random row ablations.yaml rows.1"
    assert found["encoder.drop_path"] == "0.1 --set"
    assert found["schedule.lr"] == "0.001 --set"
    assert found["schedule.weight_decay"] == "0.05 default"


def test_an_argument_of_a_replaced_part_leaves_no_source(tmp_path):
    grid = tmp_path / "grid.yaml"
    grid.write_text(
        "name: g\ntitle: g\nscale: smoke\nprotocols: [knn]\nrows:\n  - {name: a, base: simmim, masker: {type: blockwise}}\n"
    )
    assert "base" in recipe(grid, "a")["loss.type"]
    assert recipe(grid, "a")["masker.ratio"] == "0.4 default"  # simmim.yaml states another ratio, of the random masker


def test_steps_that_a_multiplier_changes_and_values_that_terms_share_name_their_file():
    assert recipe("ablations_longer", "beit", "--scale", "smoke")["schedule.steps"].endswith(
        ("rows.0", "beit.yaml", "smoke.yaml")
    )
    assert recipe("methods", "ibot", "--scale", "smoke")["terms.patch.tokenizer.prototypes"].endswith(
        "ibot.yaml scales.smoke"
    )


def test_a_tokenizer_that_learns_from_a_row_names_it():
    assert recipe("methods", "beit2", "--scale", "smoke")["tokenizer_training.teacher.row"].startswith("teacher row")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return demo(tmp_path_factory.mktemp("demo") / "results").root


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("demo", "demo: is a grid; name its row too: "),
        ("blockwise", "no run 'blockwise'. Name a run, a grid and its row, or"),
    ],
)
def test_a_word_that_is_no_run_is_answered_with_what_can_be_named(results, word, sentence):
    done = mimbench("show", "masks", word, "--results", results)
    assert (done.returncode, done.stdout) == (2, "")
    assert sentence in done.stderr


def test_a_run_says_what_it_computes_where_it_lies_and_what_it_cost(results):
    folder = next(run for run in Store(results).all_runs() if run.done())
    done = mimbench("show", "run", folder.name, "--results", results)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{folder.name}: done\nfolder  {folder.path}\n")
    for part in (
        "of demo.tiny, seed",
        "\nspec\n",
        "1 attempt\n  2026-01-02 03:04:05 UTC on node1",
        "\nresult\n",
        " images, 1 process, 0.25 GiB at most, on node1 (cpu)",
    ):
        assert part in done.stdout
