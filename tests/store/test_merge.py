"""Results of several places in one folder: what is equal is one run, what contradicts is refused, and provenance stays."""

import pytest
from commands import ROOT, mimbench
from synthetic_grid import FINETUNE, column, demo, evaluation, finish, planned, simple, write_grid

from mimbench.errors import UserError
from mimbench.plan.graph import from_folders, wanted
from mimbench.report.analysis import analyze
from mimbench.report.archive import write_records
from mimbench.report.collect import read_grid
from mimbench.report.table import table_csv
from mimbench.store import merge as merging
from mimbench.store.files import sha256_file, write_atomically
from mimbench.store.merge import merge
from mimbench.store.records import read_record, write_record
from mimbench.store.results import Store, run_name


def lab(root, numbers, seeds):
    """One of two laboratories that share a grid and computed other seeds of it."""
    store, rows = Store(root), []
    for name, value in numbers.items():
        runs = {str(seed): {"finetune": finish(planned(store, "finetune", name, seed), evaluation(FINETUNE, value + seed),
                                               host=root.name).name} for seed in seeds}  # fmt: skip
        rows.append({"name": name, "key": name, "runs": runs})
    write_grid(store, rows, [column(FINETUNE, "Fine-tune")], seeds)
    return store


def content(root):
    return {path: path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_two_laboratories_become_one_table_that_knows_where_each_run_was_computed(tmp_path):
    here, there = (lab(tmp_path / name, {"beit": 60.0, "pixels": 55.0}, seeds)
                   for name, seeds in (("here", [0, 1]), ("there", [1, 2, 3])))  # fmt: skip
    said = mimbench("merge", here.root, there.root, "--into", tmp_path / "both")
    assert said.returncode == 0, said.stderr
    assert [line.rpartition(": ")[2] for line in said.stdout.splitlines()] == [
        "4 runs imported",
        "4 runs imported",
        "demo.tiny",
    ]
    both = Store(tmp_path / "both")
    cells = analyze(both, "demo", "tiny").cells
    assert cells["pixels", "finetune"].values == {0: 55.0, 1: 56.0, 2: 57.0, 3: 58.0}
    hosts = {run.folder.name: {facts["host"] for facts in run.attempts.values()}
             for run in cells["beit", "finetune"].runs.values()}  # fmt: skip
    assert sorted(map(sorted, hosts.values())) == [["here"], ["here"], ["there"], ["there"]]
    before = content(both.root)
    assert set(merge([here.root, there.root], both).imported.values()) == {0}
    assert content(both.root) == before


def copied(store, folder):
    """The records that are published of a grid, without pictures, which take seconds."""
    write_records(store, read_grid(store, "demo", "tiny"), folder)
    return folder


def test_a_published_copy_counts_as_done_once_it_is_merged_and_can_be_published_again(tmp_path):
    original, merged = demo(tmp_path / "results"), Store(tmp_path / "merged")
    copy = copied(original, tmp_path / "copy")
    assert list(Store(copy).all_runs()) == []
    merge([copy], merged)
    tables = [table_csv(analyze(store, "demo", "tiny")).splitlines() for store in (original, merged)]
    finished = [
        [line for line in table if not line.startswith("all_tokens")] for table in tables
    ]  # of others all are done
    assert finished[0] == finished[1]
    again = copied(merged, tmp_path / "again")
    assert (again / "curves.csv").read_bytes() == (copy / "curves.csv").read_bytes()
    lines = [(folder / "records.jsonl").read_text().splitlines() for folder in (copy, again)]
    assert [line for line in lines[0] if '"state":"done"' in line] == [
        line for line in lines[1] if '"state":"done"' in line
    ]


def test_an_imported_parent_is_trained_again_only_for_a_new_run_that_needs_its_weights(tmp_path):
    store, made = Store(tmp_path / "results"), {}
    for kind, parents in (("pretrain", {}), ("finetune", {"encoder": "pretrain"}), ("knn", {"encoder": "pretrain"})):
        spec = {"kind": kind, "parents": {role: made[parent] for role, parent in parents.items()}}
        made[kind] = run_name(spec)
        store.run(made[kind]).create(spec)
    finish(store.run(made["pretrain"]), {"metrics": {}, "weights_sha256": "1" * 64})
    finish(store.run(made["finetune"]), evaluation(FINETUNE, 60.0))
    target = Store(tmp_path / "target")
    assert merge([store.root], target).without_weights == 1
    assert list(wanted(from_folders([made["finetune"]], target), target)) == []
    assert list(wanted(from_folders([made["knn"]], target), target)) == [made["pretrain"], made["knn"]]


def test_two_results_of_one_run_are_refused_and_nothing_is_written(tmp_path):
    one, two = (simple(Store(tmp_path / name), {"beit": [value]}) for name, value in (("one", 60.0), ("two", 60.5)))
    with pytest.raises(UserError, match=r"finetune-\w+: metrics.accuracy is 60.0 in .*one, 60.5 in .*two"):
        merge([one.root, two.root], Store(tmp_path / "both"))
    assert not (tmp_path / "both").exists()
    with pytest.raises(UserError, match=r"accuracy is 60.5 in .*two.runs.finetune-\w+, 60.0 in .*one\."):
        merge([one.root], two)


def test_a_result_of_which_another_version_recorded_more_is_the_same_result(tmp_path):
    for name, more in (("before", {}), ("after", {"health": {"rank": 3.5}})):
        finish(planned(Store(tmp_path / name), "finetune", 0), evaluation(FINETUNE, 60.0, **more))
    both = Store(tmp_path / "both")
    merge([tmp_path / "before"], both)
    before = content(both.root)
    merge([tmp_path / "after"], both)
    assert content(both.root) == before


def test_the_tables_that_are_published_at_one_scale_fit_in_one_folder(tmp_path):
    copies = [ROOT / "results" / "published" / f"{grid}.tiny" for grid in ("ablations", "methods")]
    merged = merge(copies, Store(tmp_path / "both"))
    assert merged.grids == ["ablations.tiny", "methods.tiny"]
    assert all(merged.imported.values())


def test_a_result_from_other_weights_than_its_parents_is_refused(tmp_path):
    stores = [Store(tmp_path / name) for name in ("parent", "child")]
    parent = planned(stores[0], "pretrain", 0)
    finish(parent, {"metrics": {}, "weights_sha256": "new"})
    used = {"encoder": {"run": parent.name, "weights_sha256": "old"}}
    finish(planned(stores[1], "finetune", 0), evaluation(FINETUNE, 60.0, parents=used))
    with pytest.raises(UserError, match=f"was computed from other weights than {parent.name}"):
        merge([store.root for store in stores], Store(tmp_path / "both"))


@pytest.mark.parametrize(
    ("change", "message"),
    [(lambda grid: grid["columns"][0].update(fingerprint="0" * 12), "they differ in `columns`"),
     (lambda grid: grid["rows"][0].update(key="other"), "row 'beit' computes something else")],
)  # fmt: skip
def test_grids_of_one_name_that_mean_something_else_are_refused(tmp_path, change, message):
    one, two = (lab(tmp_path / name, {"beit": 60.0}, [seed]) for seed, name in enumerate(("one", "two")))
    path = two.grid_path("demo", "tiny")
    grid = read_record(path)
    change(grid)
    write_record(path, grid)
    with pytest.raises(UserError, match=message):
        merge([one.root, two.root], Store(tmp_path / "both"))


def test_weights_come_along_and_a_merge_that_was_interrupted_goes_on(tmp_path, monkeypatch):
    store, target = Store(tmp_path / "one"), Store(tmp_path / "two")
    run = planned(store, "pretrain", 0)
    write_atomically(run.work / "weights.pt", b"weights")
    write_atomically(run.work / "log.txt", b"log")
    finish(run, {"metrics": {}, "weights_sha256": sha256_file(run.work / "weights.pt")})

    def interrupted(path, *arguments, **more):
        if path.name == "result.json":
            raise KeyboardInterrupt
        return write_record(path, *arguments, **more)

    monkeypatch.setattr(merging, "write_record", interrupted)
    with pytest.raises(KeyboardInterrupt):
        merge([store.root], target)
    assert not target.run(run.name).done()
    monkeypatch.undo()
    merge([store.root], target)
    assert target.run(run.name).settled()
    assert (target.run(run.name).work / "log.txt").stat().st_nlink == 1  # a log is appended to: it is not shared
    write_atomically(run.work / "weights.pt", b"damaged")
    with pytest.raises(UserError, match="sha256 mismatch"):
        merge([store.root], target)


def test_what_is_no_source_is_named(tmp_path):
    copied(lab(tmp_path / "results", {"beit": 60.0}, [0]), tmp_path / "copies" / "demo.tiny")
    said = mimbench("merge", tmp_path / "copies", "--into", tmp_path / "new")
    assert said.returncode == 2
    assert f"Name the copies in it: {tmp_path / 'copies' / 'demo.tiny'}." in said.stderr
    assert "Did you mean 'results'?" in mimbench("merge", tmp_path / "result", "--into", tmp_path / "new").stderr
