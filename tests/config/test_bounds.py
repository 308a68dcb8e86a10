"""A plan has bounds: what exceeds them is refused in a sentence, within a second."""

from __future__ import annotations

import time

import pytest
import yaml
from grids import GRID, error_of, written

from mimbench.config import merge
from mimbench.config.grid import load_grid
from mimbench.config.merge import parse, read_yaml
from mimbench.errors import UserError


@pytest.fixture(autouse=True)
def _within_a_second():
    load_grid("ablations", scale="smoke")  # imports are not what is measured
    begun = time.process_time()
    yield
    assert time.process_time() - begun < 1


def anchors(count, form):
    lines = ["a0: &a0 [x, x]" if form == "list" else "a0: &a0 {x: 1}"]
    for number in range(1, count + 1):
        last = f"*a{number - 1}"
        value = f"[{last}, {last}]" if form == "list" else f"{{<<: [{last}, {last}], y{number}: 1}}"
        lines.append(f"a{number}: &a{number} {value}")
    return "\n".join(lines)


def test_axes_of_billions_of_points_are_refused(tmp_path):
    axes = {
        "product": {f"schedule.{key}": list(range(40)) for key in ("lr", "steps", "batch", "warmup", "clip", "min_lr")}
    }
    message = error_of(tmp_path, axes=axes)
    assert "axes: 4,096,000,000 rows; a grid has at most 2,000" in message


def test_rows_times_axes_are_bounded_together(tmp_path):
    message = error_of(tmp_path, axes={"product": {"schedule.lr": [n / 1e5 for n in range(1, 1500)]}})
    assert "rows: 2,998 rows; a grid has at most 2,000" in message


def test_many_rows_at_many_seeds_are_refused(tmp_path):
    rows = [{"name": f"row{number}"} for number in range(300)]
    assert "300 rows at 1,000 seeds are 300,000 rows to train; a grid has at most 10,000" in error_of(
        tmp_path, seeds=1000, rows=rows
    )


def test_only_the_chosen_rows_count(tmp_path):
    grid = load_grid(
        written(tmp_path, rows=[{"name": f"row{number}"} for number in range(30)]), seeds=400, only=("row3",)
    )
    assert (len(grid.chosen), len(grid.seeds)) == (1, 400)


def test_a_file_of_twenty_thousand_rows_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "long.yaml"
    path.write_text("name: long\nrows:\n" + "".join(f"  - {{name: row{number}}}\n" for number in range(20_000)))
    with pytest.raises(UserError, match=r"long.yaml: has 4\d\d,\d{3} bytes; a config has at most 200,000"):
        load_grid(str(path))


@pytest.mark.parametrize("form", ["list", "merge"])
def test_anchors_that_double_are_refused_before_they_are_expanded(tmp_path, form):
    path = tmp_path / "bomb.yaml"
    path.write_text(anchors(26, form))
    with pytest.raises(UserError, match=r"its anchors expand to about \de\+0\d values; allowed: 100,000"):
        read_yaml(path)


def test_a_value_that_contains_itself_is_refused():
    with pytest.raises(yaml.YAMLError, match="endlessly many values"):
        parse("a: &a [*a]")


def test_anchors_within_the_bound_are_read():
    assert parse("a: &a {x: 1}\nc: [*a, *a]") == {"a": {"x": 1}, "c": [{"x": 1}] * 2}
    assert len(parse(anchors(10, "list"))) == 11
    assert parse("") is None


def test_as_many_rows_as_are_allowed_take_no_quadratic_time(tmp_path):
    """Names alone: 2,000 rows compared pair by pair are two million comparisons."""
    from mimbench.config.grid import GridFile, _expand

    path = tmp_path / "mine.yaml"
    found = _expand(
        GridFile(name="mine", title="", protocols=("knn",), rows=[{"name": f"row{n}"} for n in range(2000)]), path
    )
    assert len(found) == 2000


@pytest.mark.parametrize("character", ["\ud800", "\x1b", "\x07", "\x9b", "\u202e", "\x00"])
def test_what_no_terminal_should_see_is_refused_in_a_config(tmp_path, character):
    path = tmp_path / "mine.yaml"
    escaped = f"\\u{ord(character):04x}"
    path.write_text(yaml.safe_dump(GRID) + f'title: "a{escaped}b"\n')
    with pytest.raises(UserError) as caught:
        load_grid(str(path))
    assert f"the character U+{ord(character):04X} is allowed nowhere" in str(caught.value)
    with pytest.raises(UserError):
        load_grid(written(tmp_path), sets=(f'tokenizer.type="{escaped}"',))


@pytest.mark.parametrize("name", ["a" * 235, "ä" * 60, "a\nb", "../b"])
def test_names_that_no_folder_can_have_are_refused(tmp_path, name):
    assert "name: must be at most 100 letters" in error_of(tmp_path, name=name)


@pytest.mark.parametrize(
    ("encoder", "said"),
    [
        ({"depth": 10**6}, "encoder.depth: must be between 1 and 1000, not 1000000"),
        ({"dim": 10**8}, r"encoder: about 2e\+17 weights; an encoder has at most 2e\+10"),
    ],
)
def test_an_encoder_that_no_machine_holds_is_refused_before_it_is_built(tmp_path, encoder, said):
    with pytest.raises(UserError, match=said):
        load_grid(written(tmp_path, rows=[{"name": "a", "encoder": encoder}]))


@pytest.mark.parametrize("key", ["name", "label"])
def test_a_row_has_its_names_on_one_line(tmp_path, key):
    with pytest.raises(UserError, match=rf"rows\.0\.{key}: must be one line, not 'a\\n# b'"):
        load_grid(written(tmp_path, rows=[{"name": "a", key: "a\n# b"}]))
    assert load_grid(written(tmp_path, title="folded\n")).title == "folded"


def test_the_bounds_are_far_above_what_ships():
    sizes = [path.stat().st_size for path in merge.packaged().rglob("*.yaml")]
    assert max(sizes) * 10 < merge.MAX_BYTES
