"""The command line's grammar. What a command does is the function of the same name in `commands`."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable
from typing import Any

from mimbench import __version__
from mimbench.cli.data import add_commands as add_data_commands
from mimbench.cli.listing import LISTS
from mimbench.cli.merge import add_command as add_merge_command
from mimbench.cli.show import add_commands as add_show_commands
from mimbench.cli.usage import Parser
from mimbench.cli.verify import add_command as add_verify_command

USUAL_PROTOCOLS = "finetune,linear_probe,knn"  # of `evaluate`; the names of its grids mention others only


def make_parser() -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = Parser(prog="mimbench", description="A bench for masked image modeling.")
    parser.set_defaults(command="show_overview")
    parser.add_argument("--version", action="version", version=f"mimbench {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND")

    def command(name: str, function: str, text: str, **more: Any) -> argparse.ArgumentParser:
        added: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text, **more)
        added.set_defaults(command=function)
        return added

    run = command("run", "run_grid", "train, evaluate and tabulate a grid", optional_words=("grid",))
    _grid_options(run)

    evaluate = command(
        "evaluate", "evaluate_checkpoint", "a checkpoint, beside its architecture from random initialization"
    )
    evaluate.add_argument(
        "weights", help="a file, a folder with model.safetensors and config.json, timm:NAME or hf:NAME"
    )
    evaluate.add_argument(
        "--protocols",
        default=USUAL_PROTOCOLS,
        metavar="A,B",
        help="see `mimbench list protocols` (default: %(default)s)",
    )
    _run_options(evaluate, scale="tiny")
    search = command(
        "search", "search_rates", "try learning rates for every row of a grid, and write the best into configs/searched"
    )
    _grid_file(search)
    search.add_argument("--scale", help="default: the grid's")
    _results_option(search)
    for launches in (run, evaluate, search):
        _runtime_options(launches, on="local")
        launches.add_argument(
            "--dry-run", action="store_true", help="print the plan (on SLURM also the scripts) and exit"
        )

    plan = command("plan", "show_plan", "runs of a grid by kind: shared, done, FLOPs, time and disk")
    _grid_options(plan)
    plan.add_argument(
        "--throughput", type=_at_least(0.001, float), metavar="TFLOPS",
        help="price it in hours of a GPU that sustains so many TFLOPs a second",
    )  # fmt: skip

    budget = command(
        "budget", "write_steps", "write each row's steps into a grid file: equal FLOPs of training for all"
    )
    _grid_file(budget)
    budget.add_argument("--scale", help="default: the grid's")
    _results_option(budget)

    report = command(
        "report", "write_reports", "write the reports of grids from their records, and one leaderboard of all"
    )
    report.add_argument(
        "sources", nargs="*", metavar="GRID | RESULTS",
        help="a grid (default: all), or results folders and published copies to show together",
    )  # fmt: skip
    report.add_argument("--scale", help="default: all")
    status = command("status", "show_status", "progress of all runs, here and in the queue")
    status.add_argument("--watch", action="store_true", help="refresh until no run is running or queued")
    cancel = command("cancel", "cancel_jobs", "cancel a grid's jobs; finished runs are kept")
    retry = command("retry", "retry_runs", "rerun everything that is neither done, running nor queued")
    retry.add_argument("--failed", action="store_true", help="only failed runs and those blocked by them")
    _runtime_options(retry, on=None)  # runs that were submitted before need an explicit choice
    for on_grids in (status, cancel, retry):
        on_grids.add_argument("grid", nargs="?", help="name of the grid (default: all)")

    why = command("why", "show_why", "what a run waits for, or why it failed")
    logs = command("logs", "show_logs", "the log of a run")
    logs.add_argument("-f", "--follow", action="store_true", help="print new lines until the run ends")
    for on_run in (why, logs):
        on_run.add_argument("run", help="name of the run, or a prefix of its hash")

    doctor = command("doctor", "examine", "check whether this machine, or a cluster, can do the work")
    doctor.add_argument("--on", default="local", metavar="slurm:PROFILE", help="also check the cluster by a short job")

    listed = command("list", "list_names", "what a config or the command line can name")
    listed.add_argument("kind", choices=LISTS, metavar="KIND", help=", ".join(LISTS))

    publish = command("publish", "publish_grid", "copy a grid's records and report into a folder that can be committed")
    publish.add_argument("grid")
    publish.add_argument("--scale", default="tiny")
    publish.add_argument("--to", default="results/published", metavar="DIR")

    export = command("export", "export_run", "the encoder of a run for other libraries, with a model card")
    export.add_argument("run", help="name of a pretrain, checkpoint or finetuned run, or a prefix of its hash")
    export.add_argument("--to", required=True, choices=["timm", "hf", "safetensors"])
    export.add_argument("--out", metavar="DIR", help="a new folder (default: ./RUN.FORM)")

    for answers in (plan, status, report, listed):
        answers.add_argument("--json", action="store_true", help="print JSON instead, for other programs")

    add_verify_command(commands)
    add_merge_command(commands)
    add_data_commands(commands)
    add_show_commands(commands)
    for other in (report, status, why, logs, cancel, retry, doctor, publish, export):
        _results_option(other)
    return parser


def _results_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--results", default="results", metavar="DIR", help="results folder (default: ./results)")


def _at_least(least: float, kind: type[int | float] = int) -> Callable[[str], int | float]:
    def number(text: str) -> int | float:
        value = kind(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"must be at least {least}, not {text}")
        return value

    return number


def _runtime_options(parser: argparse.ArgumentParser, on: str | None) -> None:
    """Where and how runs are executed: no part of a run's name. Their keys are those of `Runtime`; None: not given.

    One of them can change a number: a dVAE's uniformity term and UPerNet's batch norm see one micro-batch as the batch.
    """
    parser.add_argument(
        "--on", default=on, metavar="local[:N] | slurm:PROFILE",
        help="N runs at a time on this machine (default: one per core or GPU), or the cluster that a profile describes",
    )  # fmt: skip
    option, flag = parser.add_argument, functools.partial(parser.add_argument, action="store_true", default=None)
    option("--loader-workers", dest="workers", type=_at_least(0), metavar="N", help="data loader processes per run")
    option("--micro-batch", type=_at_least(1), metavar="N", help="images per forward pass; gradients are accumulated")
    option("--checkpoint-seconds", type=_at_least(0, float), metavar="S", help="checkpoint interval (default here: 60)")
    flag("--activation-checkpointing", help="recompute activations in the backward pass: less memory")
    flag("--tensorboard", help="also write TensorBoard curves (pip install mimbench[tensorboard])")
    flag("--wandb", help="also write W&B curves, offline: nothing leaves this machine (pip install mimbench[wandb])")


def _grid_options(parser: argparse.ArgumentParser) -> None:
    _grid_file(parser)
    parser.add_argument("--protocols", metavar="A,B", help="only these of the grid's protocols (default: all of them)")
    _run_options(parser, scale=None)


def _grid_file(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "file",
        help="a grid: a path, or a name that ships (ablations, ablations_longer, beit_paper, masking, methods, released, targets, "
        "tokenizers, variance)",
    )


def _run_options(parser: argparse.ArgumentParser, scale: str | None) -> None:
    """Those of a grid, whoever wrote it."""
    default = scale or "the grid's"
    parser.add_argument(
        "--scale",
        default=scale,
        help=f"smoke, tiny, trial (tiny on other images), photos, small, paper, or a file of your own (default: {default})",
    )
    parser.add_argument(
        "--data", metavar="NAME", help="the images of every row: a data set's name, or a path with a '/'"
    )
    parser.add_argument(
        "--seeds", type=int, metavar="N", help="seeds 0 to N-1, or the first N that the grid lists (default: all)"
    )
    parser.add_argument("--only", action="append", default=[], metavar="ROW", help="run this row only; repeatable")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="sets",
        help="change a value in every row, such as schedule.lr=1e-3; repeatable",
    )  # fmt: skip
    _results_option(parser)
