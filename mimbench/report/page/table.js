// The main table: Python wrote it; here it is sorted, filtered and compared with another reference.
"use strict";

const inOrder = new Intl.Collator("en", { numeric: true }); // far faster than localeCompare

const MOST_DRAWN = 300; // rows; laying out thousands takes longer than sorting them

class ReportTable {
  /** `changed`: called after the reader sorted, selected or opened something. */
  constructor(report, state, changed) {
    Object.assign(this, { report, state, changed });
    this.table = document.getElementById("main-table");
    this.body = this.table.tBodies[0];
    this.heads = [...this.table.tHead.rows[0].cells];
    this.lines = new Map([...this.body.rows].map(line => [line.dataset.row, line]));
    this.rows = new Map(report.rows.map(row => [row.name, row]));
    this.order = report.rows.map(row => row.name);
    this.shown = this.order;
    this.keys = new Map();
    this.style = document.head.appendChild(make("style"));
    this.most = MOST_DRAWN;
    this.written = null; // the reference whose numbers stand in the table: Python's
    this.addButtons();
  }

  addButtons() {
    for (const head of this.heads) {
      const button = make("button", { type: "button", onclick: () => this.toggleSort(head.dataset.column) });
      button.append(...head.childNodes);
      head.append(button);
    }
    for (const [name, line] of this.lines) {
      const head = line.cells[0];
      const label = head.textContent;
      const box = make("input", { type: "checkbox", "aria-label": `Select ${label} to compare`, onchange: () => this.select(name) });
      const address = `#${new URLSearchParams({ open: name })}`;
      head.replaceChildren(box, make("a", { class: "open", href: address, onclick: event => this.open(event, name) }, label));
    }
  }

  toggleSort(column) {
    const { state } = this;
    state.down = state.sort === column ? !state.down : column !== "row";
    state.sort = column;
    this.sort();
    this.filter();
    this.changed();
  }

  select(name) {
    const { state } = this;
    state.selected = state.selected.includes(name) ? state.selected.filter(other => other !== name)
      : [...state.selected, name].slice(-2);
    this.markSelected();
    this.changed();
  }

  open(event, name) {
    event.preventDefault(); // the link alone would drop the rest of the view
    this.state.open = name;
    this.changed();
  }

  markSelected() {
    for (const [name, line] of this.lines) {
      const selected = this.state.selected.includes(name);
      line.classList.toggle("selected", selected);
      line.querySelector("input").checked = selected;
    }
  }

  /** What a column is sorted by, read once: a number, a text, or null where there is nothing. */
  keysOf(column) {
    if (!this.keys.has(column)) {
      const index = this.heads.findIndex(head => head.dataset.column === column);
      const key = cell => (column === "row" ? cell.textContent : cell.dataset.v ? Number(cell.dataset.v) : null);
      this.keys.set(column, new Map([...this.lines].map(([name, line]) => [name, key(line.cells[index])])));
    }
    return this.keys.get(column);
  }

  sort() {
    const { sort, down } = this.state;
    let order = this.order;
    if (this.heads.some(head => head.dataset.column === sort)) {
      const keys = this.keysOf(sort);
      const compare = (a, b) => (typeof a === "string" ? inOrder.compare(a, b) : a - b) * (down ? -1 : 1);
      order = [...order].sort((a, b) => {
        const [first, second] = [keys.get(a), keys.get(b)];
        return (first === null) - (second === null) || (first === null ? 0 : compare(first, second));
      });
    }
    for (const head of this.heads) {
      if (head.dataset.column === sort) head.setAttribute("aria-sort", down ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    }
    this.body.append(...order.map(name => this.lines.get(name)));
    this.sorted = order;
  }

  /** Numbers against the chosen reference. Python's own stay as long as nothing else is chosen. */
  compareWith(reference) {
    this.cells = allCells(this.report, reference);
    if (reference === this.written) return;
    this.written = reference;
    for (const [name, line] of this.lines) {
      const row = this.rows.get(name);
      const isReference = (reference ?? row.reference) === name;
      line.classList.toggle("base", isReference);
      this.report.columns.forEach((column, index) => {
        const cell = this.cells.get(column.protocol).get(name);
        const small = cell?.comparison
          ? make("small", { class: MARKS[cell.comparison.verdict] ? cell.comparison.verdict : "" }, differenceText(cell, column)) : "";
        line.cells[index + 1].replaceChildren(cellText(cell, column, row, this.report.grid), small);
      });
    }
  }

  filter() {
    const { text, parts, significance } = this.state;
    const words = text.toLowerCase().split(/\s+/).filter(Boolean);
    const fits = row => {
      const said = `${row.label} ${row.name} ${row.description}`.toLowerCase();
      return words.every(word => said.includes(word)) &&
        Object.entries(parts).every(([part, type]) => !type || (row.parts[part] ?? []).includes(type)) &&
        this.hasVerdict(row, significance);
    };
    const names = new Set(this.report.rows.filter(fits).map(row => row.name));
    this.shown = this.sorted.filter(name => names.has(name));
    const drawn = new Set(this.shown.slice(0, this.most));
    for (const [name, line] of this.lines) line.hidden = !drawn.has(name);
    document.getElementById("more").hidden = drawn.size === this.shown.length;
    document.getElementById("more-count").textContent = `The first ${drawn.size} of ${this.shown.length} rows.`;
    return names;
  }

  hasVerdict(row, wanted) {
    if (!wanted) return true;
    const verdicts = this.report.columns.filter(column => !this.state.hidden.includes(column.protocol))
      .map(column => this.cells.get(column.protocol).get(row.name)?.comparison?.verdict);
    const isSignificant = verdict => verdict in MARKS;
    if (wanted === "none") return !verdicts.some(isSignificant);
    return verdicts.some(verdict => (wanted === "any" ? isSignificant(verdict) : verdict === wanted));
  }

  hideColumns() {
    const places = this.heads.flatMap((head, index) => (this.state.hidden.includes(head.dataset.column) ? [index + 1] : []));
    this.style.textContent = places.map(place => `#main-table tr > :nth-child(${place}) { display: none; }`).join("\n");
  }

  /** The visible cells as texts, for copying. */
  textsOf(names) {
    const visible = this.heads.flatMap((head, index) => (this.state.hidden.includes(head.dataset.column) ? [] : [index]));
    const text = cell => (cell.dataset.column || !cell.firstChild ? cell.textContent
      : cell.tagName === "TH" ? cell.textContent : cell.firstChild.textContent);
    return [this.heads, ...names.map(name => [...this.lines.get(name).cells])]
      .map(cells => visible.map(index => text(cells[index])));
  }

  apply() {
    this.compareWith(this.state.reference);
    this.hideColumns();
    this.sort();
    this.markSelected();
    return this.filter();
  }
}
