// The page comes alive: controls, drawer, comparison and figures follow one state.
"use strict";

function start() {
  const report = JSON.parse(document.getElementById("report-data").textContent);
  if (!report.rows.length) return;
  const byId = id => document.getElementById(id);
  const state = readState(report);
  const table = new ReportTable(report, state, update);
  const drawer = byId("drawer");

  function update() {
    writeState(state);
    showDrawer();
    showComparison();
  }

  function refresh() {
    const shown = table.apply();
    byId("count").textContent = `${shown.size} of ${report.rows.length} rows`;
    byId("exploratory").hidden = state.reference === null;
    byId("compared-with").textContent = state.reference === null ? report.grid.compared_with : table.rows.get(state.reference).label;
    const partial = shown.size < report.rows.length;
    for (const mark of document.querySelectorAll("[data-artist]")) mark.classList.toggle("dimmed", partial && !shown.has(mark.dataset.artist));
    update();
  }

  function showDrawer() {
    if (state.open === null) return void (drawer.open && drawer.close());
    const row = table.rows.get(state.open);
    const other = table.rows.get(state.reference ?? row.reference) ?? row;
    const content = JSON.stringify([row.name, other.name]);
    if (drawer.open && drawer.dataset.content === content) return;
    drawer.dataset.content = content;
    byId("drawer-title").textContent = row.label;
    byId("drawer-content").replaceChildren(...rowContent(report, table.cells, row, other, table.textsOf([row.name])));
    if (!drawer.open) drawer.showModal();
    drawer.scrollTop = 0;
  }

  function showComparison() {
    const panel = byId("comparison");
    panel.hidden = state.selected.length !== 2;
    if (panel.hidden) return;
    const [first, second] = state.selected.map(name => table.rows.get(name));
    byId("comparison-title").textContent = `${first.label} against ${second.label}`;
    byId("comparison-content").replaceChildren(...comparisonContent(report, first, second));
  }

  function fillChoices(select, choices) {
    select.append(...choices.map(([value, text]) => make("option", { value }, text)));
  }

  function setControls() {
    byId("filter-text").value = state.text;
    for (const part of PARTS) byId(`filter-${part}`).value = state.parts[part] ?? "";
    byId("filter-significance").value = state.significance;
    byId("choose-reference").value = state.reference ?? "";
    for (const box of byId("choose-columns").querySelectorAll("input")) box.checked = !state.hidden.includes(box.value);
  }

  function addControls() {
    for (const part of PARTS) {
      const types = [...new Set(report.rows.flatMap(row => row.parts[part] ?? []))].sort();
      const select = byId(`filter-${part}`);
      fillChoices(select, types.map(type => [type, type.replaceAll("_", " ")]));
      select.onchange = () => { state.parts[part] = select.value; refresh(); };
      select.parentNode.hidden = types.length < 2;
    }
    byId("filter-text").oninput = event => { state.text = event.target.value; refresh(); };
    byId("filter-significance").onchange = event => { state.significance = event.target.value; refresh(); };
    byId("choose-reference").options[0].text = `${report.grid.compared_with} (pre-specified)`;
    fillChoices(byId("choose-reference"), report.rows.map(row => [row.name, row.label]));
    byId("choose-reference").onchange = event => { state.reference = event.target.value || null; refresh(); };
    for (const head of table.heads.slice(1)) {
      const box = make("input", { type: "checkbox", value: head.dataset.column });
      box.onchange = () => {
        state.hidden = box.checked ? state.hidden.filter(column => column !== box.value) : [...state.hidden, box.value];
        refresh();
      };
      byId("choose-columns").append(make("label", {}, box, head.textContent));
    }
    byId("show-all").onclick = () => { table.most = Infinity; table.filter(); };
    byId("reset").onclick = () => { Object.assign(state, emptyState()); setControls(); refresh(); };
    const forms = Object.entries(FORMS).map(([form, write]) => [form, () => write(table.textsOf(table.shown))]);
    byId("copy-table").append(copyButtons(Object.fromEntries(forms)));
    byId("filters").open = innerWidth > 740;
    byId("controls").hidden = false;
  }

  drawer.addEventListener("close", () => { state.open = null; writeState(state); });
  drawer.addEventListener("click", event => { if (event.target === drawer) drawer.close(); });
  byId("drawer-close").onclick = () => drawer.close();
  byId("comparison-close").onclick = () => { state.selected = []; table.markSelected(); update(); };
  addEventListener("hashchange", () => { Object.assign(state, readState(report)); setControls(); refresh(); });
  addControls();
  setControls();
  refresh();
}

start();
