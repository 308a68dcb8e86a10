"""`mimbench verify`: what was committed follows from its records, and each way in which it might not is named with its file."""

import json
import re

import pytest
from commands import ROOT, mimbench
from synthetic_grid import FINETUNE, column, demo, evaluation, finish, planned, write_grid

from mimbench.report.analysis import analyze
from mimbench.report.archive import write_records
from mimbench.report.build import table_files
from mimbench.report.table import tabulate
from mimbench.report.verify import verify
from mimbench.store.files import sha256_file, write_atomically
from mimbench.store.records import read_record, write_record
from mimbench.store.results import Store, run_name


def small(root):
    """A pre-training with weights, and its evaluation with a digest for everything."""
    store = Store(root)
    parent = planned(store, "pretrain", 0)
    write_atomically(parent.work / "weights.pt", b"weights")
    weights = sha256_file(parent.work / "weights.pt")
    finish(parent, {"metrics": {}, "weights_sha256": weights})
    spec = {"kind": "finetune", "parents": {"encoder": parent.name}}
    run = store.run(run_name(spec))
    run.create(spec)
    used = {"encoder": {"run": parent.name, "weights_sha256": weights}}
    finish(run, evaluation(FINETUNE, 60.0, parents=used))
    row = {"name": "beit", "runs": {"0": {"pretrain": parent.name, "finetune": run.name}}}
    write_grid(store, [row], [column(FINETUNE, "Fine-tune")], [0])
    write_tables(store, store.report_folder("demo", "tiny"))
    return store, parent, run


def write_tables(store, folder):
    analysis = analyze(store, "demo", "tiny")
    for name, text in table_files(analysis, tabulate(analysis)).items():
        write_atomically(folder / name, text)
    return analysis.grid


def change(path, edit):
    """As one does who knows how a digest is made."""
    record = read_record(path)
    edit(record)
    write_record(path, record)


def replace(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_all_that_is_published_agrees():
    said = mimbench("verify", ROOT / "results" / "published")
    assert said.returncode == 0, said.stdout
    *archived, last = said.stdout.splitlines()
    assert [line.partition(": ")[2] for line in archived] == ["not checked: written by 0.1"] * 2
    copies = list((ROOT / "results" / "published").glob("*/grid.json"))
    assert last.endswith(f"{4 * len(copies)} tables checked: all agree")


def test_a_copy_of_a_grid_with_failed_and_unreadable_runs_agrees_with_its_tables(tmp_path):
    store = demo(tmp_path / "results")
    copy = tmp_path / "copies" / "demo.tiny"
    write_records(store, write_tables(store, copy), copy)
    found = verify(copy.parent)
    assert (found.problems, found.tables) == ([], 4)
    replace(copy / "records.jsonl", '"accuracy":', '"top5":')
    assert "no 'accuracy', its metric" in verify(copy).problems[0]


FOLDER = {
    "an edited result": (lambda s, p, r: replace(r.path / "result.json", "60.0", "61.0"), r"finetune-\w+/result.json: sha256"),
    "a number with a new digest": (lambda s, p, r: change(r.path / "result.json", lambda x: x["metrics"].update(accuracy=61.0)),
                                   "table.csv: does not follow from the records"),
    "no number": (lambda s, p, r: change(r.path / "result.json", lambda x: x["metrics"].update(accuracy="high")),
                  "result.metrics.accuracy is no finite number"),
    "a missing field": (lambda s, p, r: change(r.path / "result.json", lambda x: x.pop("flags")), "result.flags is missing"),
    "another spec": (lambda s, p, r: replace(r.path / "spec.json", p.name, "pretrain-" + "0" * 12), "spec.json: does not match"),
    "another protocol": (lambda s, p, r: change(r.path / "result.json",
                                                lambda x: x["protocol"]["settings"].update(epochs=99)),
                         "protocol fingerprint .* but its settings give"),
    "other weights": (lambda s, p, r: (p.work / "weights.pt").write_bytes(b"others"), "weights.pt: sha256 mismatch"),
    "a retrained parent": (lambda s, p, r: change(p.path / "result.json", lambda x: x.update(weights_sha256="0" * 64)),
                           r"finetune-\w+: stale"),
    "a result that leaves its parents out": (lambda s, p, r: change(r.path / "result.json", lambda x: x.pop("parents")),
                                             r"does not say what it took from its parents \(encoder\)"),
    "no parent": (lambda s, p, r: p.path.rename(s.root / "away"), r"its parent pretrain-\w+ \(encoder\) is not there"),
    "an edited attempt": (lambda s, p, r: replace(next((r.path / "attempts").iterdir()), "node1", "node2"), "attempts/.*: sha256"),
    "an edited grid": (lambda s, p, r: replace(s.grid_path("demo", "tiny"), "Fine-tune", "Fine"), "demo.tiny.json: sha256"),
    "a grid of other runs": (lambda s, p, r: change(s.grid_path("demo", "tiny"),
                                                    lambda x: x["rows"][0]["runs"]["0"].update(knn="knn-" + "0" * 12)),
                             "row 'beit', seed 0: knn knn-0+ is not there"),
    "a run of another kind": (lambda s, p, r: change(s.grid_path("demo", "tiny"),
                                                     lambda x: x["rows"][0]["runs"]["0"].update(pretrain=r.name)),
                              r"row 'beit', seed 0: pretrain finetune-\w+ is not there"),
    "no grid": (lambda s, p, r: change(s.grid_path("demo", "tiny"), lambda x: x.pop("rows")), "not the record of a grid"),
    "an edited table": (lambda s, p, r: replace(s.report_folder("demo", "tiny") / "table.md", "60.00", "66.00"),
                        "table.md: does not follow"),
}  # fmt: skip


@pytest.mark.parametrize("case", FOLDER)
def test_what_does_not_agree_in_a_results_folder_is_named(tmp_path, case):
    damage, message = FOLDER[case]
    store, parent, run = small(tmp_path / "results")
    assert verify(store.root).problems == []
    damage(store, parent, run)
    said = mimbench("verify", store.root)
    assert said.returncode == 1
    assert re.search(message, said.stdout), said.stdout


def test_a_copy_holds_the_runs_behind_those_that_its_rows_name(tmp_path):
    store, *_ = small(tmp_path / "results")
    change(store.grid_path("demo", "tiny"), lambda grid: grid["rows"][0]["runs"]["0"].pop("pretrain"))
    copy = tmp_path / "copy"
    write_records(store, write_tables(store, copy), copy)
    assert (verify(copy).problems, verify(copy).runs) == ([], 2)


@pytest.mark.parametrize(
    ("edit", "message"),
    [(lambda line: line | {"result": {**line["result"], "metrics": {"accuracy": 99.0}}}, "table.csv: does not follow"),
     (lambda line: line | {"spec": {**line["spec"], "seed": 7}}, "records.jsonl:1: .* does not match the hash in its name"),
     (lambda line: {"run": line["run"]}, "records.jsonl:1: not the record of a run"),
     (lambda line: line | {"result": {"metrics": []}}, "result.kind is missing")],
)  # fmt: skip
def test_what_does_not_agree_in_a_published_copy_is_named(tmp_path, edit, message):
    store, _, run = small(tmp_path / "results")
    copy = tmp_path / "copy"
    write_records(store, write_tables(store, copy), copy)
    first, *others = (copy / "records.jsonl").read_text().splitlines()
    assert json.loads(first)["run"] == run.name
    write_atomically(copy / "records.jsonl", "\n".join([json.dumps(edit(json.loads(first))), *others]))
    problems = "\n".join(verify(copy).problems)
    assert re.search(message, problems), problems
    write_atomically(copy / "records.jsonl", "\n".join([first, *others, first]))
    assert f"records.jsonl:3: {run.name}: a second line for this run." in verify(copy).problems[0]


def test_a_folder_without_results_is_refused(tmp_path):
    said = mimbench("verify", tmp_path)
    assert (said.returncode, "no results there" in said.stderr) == (2, True)
