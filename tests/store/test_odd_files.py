"""Files in a run's folder that nobody of us wrote: they concern their own run, in a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from mimbench.cli.status import status
from mimbench.errors import RunFailed, UserError
from mimbench.store.cached import cached_folder
from mimbench.store.files import read_json
from mimbench.store.records import GRID_FORMAT, write_record
from mimbench.store.results import Store, read_elapsed, read_progress, run_name


@pytest.fixture
def runs(tmp_path):
    """Two planned runs of a grid."""
    store, rows = Store(tmp_path), []
    for seed in (0, 1):
        spec = {"kind": "knn", "version": 1, "seed": seed}
        store.run(run_name(spec)).create(spec)
        rows.append({"name": f"row{seed}", "runs": {str(seed): {"knn": run_name(spec)}}})
    fine = {"name": "fine", "scale": "tiny", "seeds": [0, 1], "columns": [], "rows": rows, "format": GRID_FORMAT}
    write_record(tmp_path / "grids" / "fine.tiny.json", fine)
    return [store.run(row["runs"][seed]["knn"]) for seed, row in zip("01", rows, strict=True)]


def shown(folder):
    return "\n".join(status(Store(folder.path.parent.parent))[0])


@pytest.mark.parametrize("content", ["[" * 100_000, '{"a":' * 100_000])
def test_json_that_is_nested_without_end_is_named(tmp_path, content):
    path = tmp_path / "value.json"
    path.write_text(content)
    with pytest.raises(UserError, match=r"value\.json: not readable as JSON \(maximum recursion depth"):
        read_json(path)


@pytest.mark.parametrize("name", ["claim-0~", "claim-x", "claim-²", "claim-" + "9" * 5000, "claim-"])
def test_a_file_that_is_only_called_like_a_lease_is_none(runs, name):
    (runs[0].path / name[:200]).write_text("{}")
    lease = runs[0].acquire()
    assert lease is not None
    assert lease.path.name == "claim-0"
    lease.release()


@pytest.mark.parametrize("content", ["{}", "[]", '{"seconds": "x", "step": [], "steps": 3, "steps_per_second": null}'])
def test_notes_of_progress_that_are_damaged_are_as_good_as_none(runs, content):
    runs[0].work.mkdir()
    for name in ("progress.json", "elapsed.json"):
        (runs[0].work / name).write_text(content)
    assert read_progress(runs[0].work) is None
    assert read_elapsed(runs[0].work) == 0
    assert "2 runs: 2 planned; 0 s" in shown(runs[0])


def test_a_lease_that_is_a_folder_hides_no_other_run(runs):
    (runs[0].path / "claim-0").mkdir()
    assert f"failed: {runs[0].name}" in shown(runs[0])
    assert "2 runs: 1 failed, 1 planned" in shown(runs[0])


def test_a_run_folder_that_cannot_be_entered_hides_no_other(runs, monkeypatch):
    """As to others than root, to whom nothing is closed."""
    before = Path.glob

    def glob(path, pattern):
        if runs[0].name in path.parts:
            raise PermissionError(13, "Permission denied", str(path))
        return before(path, pattern)

    monkeypatch.setattr(Path, "glob", glob)
    assert "2 runs: 2 planned" in shown(runs[0])


def test_a_submission_that_names_no_job_is_none(runs):
    runs[0].note_submission({})
    assert "2 runs: 2 planned" in shown(runs[0])


def test_a_disk_that_is_full_while_the_cache_is_filled_names_the_folder(tmp_path):
    """numpy's own error has neither a path nor a number."""

    def fill(folder):
        raise OSError("Not enough free space to write 9 bytes")

    with pytest.raises(RunFailed, match=r"data: Not enough free space"):
        cached_folder(tmp_path / "data", fill)
    assert [path.name for path in tmp_path.iterdir()] == [".data.lock"]
