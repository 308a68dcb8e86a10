"""The words of the command line. What a command does stands in `cli`, under the name given here."""

from __future__ import annotations

import argparse

from mimbench import __version__


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mimbench", description="A bench for masked image modeling.")
    parser.add_argument("--version", action="version", version=f"mimbench {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="train, evaluate and tabulate a grid").add_subparsers(
        required=True, metavar="WHAT"
    )
    grid = run.add_parser("grid", help="all rows of a grid, with all its seeds")
    _grid_options(grid)
    _place_options(grid)
    grid.add_argument(
        "--dry-run", action="store_true", help="print the plan, on SLURM the sbatch scripts too, and stop"
    )
    grid.set_defaults(command="run_grid")

    plan = commands.add_parser("plan", help="what a grid needs: runs by kind, shared, done, time and disk")
    _grid_options(plan)
    plan.set_defaults(command="show_plan")

    report = commands.add_parser("report", help="write the report of a grid from its records")
    report.add_argument("grid", nargs="?", help="name of the grid (default: every grid in the results)")
    report.add_argument("--scale", help="default: every scale there is")
    _results_option(report)
    report.set_defaults(command="write_reports")

    status = commands.add_parser("status", help="how far the runs of the grids are, here and in the queue")
    status.add_argument("grid", nargs="?", help="name of the grid (default: all)")
    status.add_argument("--watch", action="store_true", help="again and again, until nothing runs or waits")
    _results_option(status)
    status.set_defaults(command="show_status")

    why = commands.add_parser("why", help="what a run waits for, or why it failed")
    why.add_argument("run", help="its name, or the beginning of its hash")
    _results_option(why)
    why.set_defaults(command="show_why")

    logs = commands.add_parser("logs", help="the log of a run")
    logs.add_argument("run", help="its name, or the beginning of its hash")
    logs.add_argument("-f", "--follow", action="store_true", help="as it grows, until the run ends")
    _results_option(logs)
    logs.set_defaults(command="show_logs")

    cancel = commands.add_parser("cancel", help="take a grid's jobs out of the queue; finished runs stay")
    cancel.add_argument("grid", nargs="?", help="name of the grid (default: all)")
    _results_option(cancel)
    cancel.set_defaults(command="cancel_jobs")

    retry = commands.add_parser("retry", help="run again what is neither done, running nor queued")
    retry.add_argument("grid", nargs="?", help="name of the grid (default: all)")
    retry.add_argument("--failed", action="store_true", help="only what failed, and what waits for that")
    _place_options(retry)
    _results_option(retry)
    retry.set_defaults(command="retry_runs", on=None)  # said by the user where the runs were once submitted

    doctor = commands.add_parser("doctor", help="whether this machine, or a cluster, can do the work")
    doctor.add_argument("--on", default="local", metavar="slurm:PROFILE", help="also through a short job")
    _results_option(doctor)
    doctor.set_defaults(command="examine")

    parts = commands.add_parser("list", help="the parts that can be named in a config")
    parts.add_argument("kind", choices=["tokenizers", "maskers", "losses", "decoders", "protocols"])
    parts.set_defaults(command="list_parts")

    publish = commands.add_parser("publish", help="copy a grid's records and report, for committing")
    publish.add_argument("grid")
    publish.add_argument("--scale", default="tiny")
    publish.add_argument("--to", default="results/published", metavar="DIR")
    _results_option(publish)
    publish.set_defaults(command="publish_grid")
    return parser


def _results_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--results", default="results", metavar="DIR", help="default: ./results")


def _place_options(parser: argparse.ArgumentParser) -> None:
    """Where and how runs are carried out: nothing of it counts for a run's name.

    One of them can move a number: `--micro-batch` is what a dVAE's uniformity term and UPerNet's batch norm see as the batch.
    """
    parser.add_argument(
        "--on", default="local", metavar="local[:N] | slurm:PROFILE",
        help="N runs at a time on this machine (default: one a core or GPU), or a cluster as a profile describes it",
    )  # fmt: skip
    parser.add_argument("--loader-workers", type=int, metavar="N", help="processes that load images, for each run")
    parser.add_argument("--micro-batch", type=int, metavar="N", help="images of one forward pass; gradients add up")
    parser.add_argument(
        "--checkpoint-seconds", type=float, metavar="S", help="save this often (default: 60 on this machine)"
    )
    parser.add_argument(
        "--recompute", action="store_true", help="activations anew in the backward pass: less memory, slower"
    )
    parser.add_argument(
        "--tensorboard", action="store_true", help="write TensorBoard curves too (pip install mimbench[tensorboard])"
    )


def _grid_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", help="a grid: a path, or the name of one that ships (ablations, methods, tokenizers)")
    parser.add_argument("--scale", help="smoke, tiny, or a file of your own (default: the grid's)")
    parser.add_argument("--seeds", type=int, metavar="N", help="seeds 0 to N-1 (default: the grid's)")
    parser.add_argument("--only", action="append", default=[], metavar="ROW", help="this row alone; may be repeated")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="sets",
        help="e.g. schedule.lr=1e-3, for every row",
    )
    _results_option(parser)
