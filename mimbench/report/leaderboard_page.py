"""reports/index.html: all grids, the leaderboard, and what papers report. One file, without a request to anywhere."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from string import Template

from mimbench.report.format import DASH, count, duration, number
from mimbench.report.format import flops as flops_text
from mimbench.report.leaderboard import Entry, Group, Leaderboard
from mimbench.report.page.assets import asset
from mimbench.report.published import Published, cost_claims, published_rows, was_read_there

MEASURED = ["Rank", "Row", "Value", "n", "Encoder", "Parameters", "Pre-training data", "Epochs", "FLOPs", "Time per seed",
            "Source"]  # fmt: skip
PUBLISHED = ["Method", "Value", "Metric", "Evaluation", "Data set", "Encoder", "Pre-training data", "Epochs", "Target", "Masking",
             "Source", "Notes"]  # fmt: skip


def leaderboard_page(board: Leaderboard, refused: Sequence[str] = ()) -> str:
    rows = {name for group in board.groups.values() for entry in group for name, _ in entry.grids}
    notices = [*refused, *board.notices]
    return Template(asset("leaderboard.html")).substitute(
        style=asset("base.css") + asset("leaderboard.css"),
        subtitle=f"{count(len(board.grids), 'grid')}, {count(len(board.groups), 'ranking')}, "
        f"{count(len(published_rows()), 'published number')}.",
        notices='<div class="warn">' + "".join(f"<p>{escape(text)}</p>" for text in notices) + "</div>" if notices else "",
        grids=_grids(board),
        groups="\n".join(_group(group, entries) for group, entries in board.groups.items()) if rows else "<p>No finished runs yet.</p>",
        costs=_costs(board),
        published=_published(published_rows()),
    )  # fmt: skip


def _grids(board: Leaderboard) -> str:
    lines = []
    for grid, origin in board.grids:
        done = sum(record.state == "done" for record in grid.records.values())
        lines.append(
            f'<li><a href="{escape(origin.report)}">{escape(grid.title)}</a>: <code>{escape(grid.name)}</code> at scale '
            f"<code>{escape(grid.scale)}</code>, {count(len(grid.rows), 'row')}, {count(len(grid.seeds), 'seed')}, {done} of "
            f"{count(len(grid.records), 'run')} done, in <code>{escape(origin.place)}</code></li>"
        )
    return f"<ul>{''.join(lines)}</ul>" if lines else "<p>No grid has been run yet.</p>"


def _group(group: Group, entries: list[Entry]) -> str:
    heading = f"{group.label} ({group.unit})" if group.unit else group.label
    caption = (
        f"{escape(heading)} on {escape(group.data)}, {escape(group.budget)}<small>{escape(group.metric)}; protocol "
        f"<code>{escape(group.protocol)}</code>, fingerprint <code>{escape(group.fingerprint)}</code>; data "
        f"<code>{escape(group.data_fingerprint)}</code></small>"
    )
    body = "".join(_entry(entry, group) for entry in entries)
    return f'<div class="group">{_table(caption, f"{heading}, {group.data}, {group.budget}", MEASURED, body, text=(1, 4, 6, 10))}</div>'


def _entry(entry: Entry, group: Group) -> str:
    summary, external = entry.summary, " + external" if entry.external else ""
    value = number(summary.mean, group.unit)
    if summary.low is not None and summary.high is not None:
        value += f" ± {number((summary.high - summary.low) / 2, group.unit)}"
    epochs = "" if entry.epochs is None else f"{entry.epochs:.3g}"
    return (
        f"<tr data-row {_filters(entry.encoder, entry.data, epochs)}>{_number(entry.rank, str(entry.rank))}"
        f'<th scope="row">{escape(entry.label)}<small>{escape(entry.description)}</small></th>'
        + _number(summary.mean, value)
        + _number(summary.n, str(summary.n))
        + _text(entry.encoder)
        + _number(entry.parameters, DASH if entry.parameters is None else f"{entry.parameters / 1e6:,.2f} M")
        + _text(entry.data or DASH)
        + _number(entry.epochs, epochs or DASH)
        + _number(entry.flops, DASH if entry.flops is None else flops_text(entry.flops) + external)
        + _number(entry.seconds, DASH if entry.seconds is None else duration(entry.seconds))
        + f'<td class="text">{_source(entry)}</td></tr>'
    )


def _source(entry: Entry) -> str:
    """The grids that it stands in, and the records behind its value."""
    several = len({name for name, _ in entry.grids}) < len(entry.grids)  # grids of one name, in different places
    grids = ", ".join(
        f'<a href="{escape(origin.report)}">{escape(f"{name} in {origin.place}" if several else name)}</a>'
        for name, origin in entry.grids
    )
    runs = "".join(
        f'<li><a href="{escape(origin.runs)}/{escape(name)}/">{escape(name)}</a></li>'
        if origin.runs
        else f"<li>{escape(name)}</li>"
        for name, origin in entry.runs.items()
    )
    return f"{grids}<details><summary>{count(len(entry.runs), 'record')}</summary><ul>{runs}</ul></details>"


def _costs(board: Leaderboard) -> str:
    """What papers claim, and beside it what was counted here, for each image that pre-training sees."""
    claims = "".join(
        f'<tr><th scope="row">{escape(claim["method"])}</th>{_text(claim["against"] or DASH)}{_text(claim["quantity"])}'
        f'{_text(claim["value"])}{_text(_citation(claim, "place"))}{_text(claim["notes"])}</tr>'
        for claim in cost_claims()
    )  # fmt: skip
    seen: dict[tuple[str, str, str], tuple[float, float | None]] = {}
    for entries in board.groups.values():
        for entry in entries:
            if entry.flops and entry.images and not entry.external:
                seen.setdefault(
                    (entry.label, entry.encoder, entry.grids[0][0]), (entry.flops / entry.images, entry.flops)
                )
    least = min((per_image for per_image, _ in seen.values()), default=1.0)
    counted = "".join(
        f'<tr><th scope="row">{escape(label)}</th>{_text(encoder)}{_text(grid)}{_number(per_image, flops_text(per_image))}'
        f"{_number(per_image, f'{per_image / least:.2f}')}{_number(whole, flops_text(whole or 0))}</tr>"
        for (label, encoder, grid), (per_image, whole) in sorted(seen.items(), key=lambda item: item[1][0])
    )
    table = _table("Claims of papers", "claims of papers", ["Method", "Against", "What", "Claim", "Source", "Notes"], claims,
                   text=(0, 1, 2, 3, 4, 5))  # fmt: skip
    if not counted:
        return table + "<p>No FLOPs were counted here yet.</p>"
    return table + _table(
        "Counted here: FLOPs of a row's whole training, tokenizer and teacher included, for each image that its pre-training saw",
        "FLOPs counted here", ["Row", "Encoder", "Grid", "FLOPs per image", "Relative to the least", "FLOPs"], counted, text=(0, 1, 2),
    )  # fmt: skip


def _published(rows: Iterable[Published]) -> str:
    table = _table(
        "Published numbers, each with its source",
        "published numbers",
        PUBLISHED,
        "".join(map(_published_row, rows)),
        text=range(2, 12),
    )
    return f'<div class="group">{table}</div>'


def _published_row(row: Published) -> str:
    masking = " ".join(filter(None, (row["masker"], row["mask_ratio"])))
    texts = [row["metric"], row["eval"].replace("_", " "), row["dataset"], row["backbone"], row["pretrain_data"],
             row["pretrain_epochs"], row["tokenizer_or_target"], masking, _citation(row, "table")]  # fmt: skip
    doubt = "" if was_read_there(row) else "<strong>not read in its source</strong>: "
    return (
        f"<tr data-row {_filters(row['backbone'], row['pretrain_data'], row['pretrain_epochs'])}>"
        f'<th scope="row">{escape(row["method"])}</th>{_number(float(row["value"]), row["value"])}'
        f'{"".join(map(_text, texts))}<td class="text long">{doubt}{escape(row["notes"])}</td></tr>'
    )


def _citation(row: Published, place: str) -> str:
    return ", ".join(filter(None, (row["source"], row[place])))


def _filters(encoder: str, data: str, epochs: str) -> str:
    return f'data-encoder="{escape(encoder)}" data-data="{escape(data)}" data-epochs="{escape(epochs)}"'


def _number(value: float | None, text: str) -> str:
    return f'<td data-v="{"" if value is None else repr(value)}">{escape(text)}</td>'


def _text(text: str) -> str:
    return f'<td class="text">{escape(text)}</td>'


def _table(caption: str, name: str, headings: Sequence[str], body: str, text: Iterable[int] = ()) -> str:
    """With a button in each header; the region around it can be scrolled by keyboard."""
    left = set(text) | {headings.index(word) for word in ("Row", "Method") if word in headings}
    head = "".join(
        f'<th scope="col"{" class=text" if index in left else ""}><button type="button">{escape(heading)}</button></th>'
        for index, heading in enumerate(headings)
    )
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(name)}"><table><caption><span>{caption}</span></caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )
