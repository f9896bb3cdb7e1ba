// The table of cases: worst first, sorted by any column, filtered by text and flags.

const COLUMNS = [
  { key: "score", name: "Dice", read: "dice", digits: 3, rises: true },
  { key: "hd95", name: "HD95", read: "hd95_mm", rises: false },
  { key: "nsd", name: "NSD", read: "nsd", digits: 3, rises: true },
  { key: "volume", name: "ml", read: "volume", total: true, rises: false, title: "Volume of the mask in ml" },
  { key: "change", name: "± ml", read: "volume_error_ml", total: true, rises: false, title: "Volume of the mask less that of the reference, in ml" },
  { key: "p", name: "p", read: "p", rises: true, title: "How usual the case is among the training cases" },
];

const table = {
  sort: null, isRising: true, flags: new Set(), shown: [], selected: -1,

  start() {
    const unit = lengthUnit();
    const worded = { nsd: { name: nameNsd(unit) }, hd95: { title: `95th percentile of surface distances, in ${unit}` } };
    this.columns = COLUMNS.filter((column) => index.cases.some((one) => isNumber(this.value(one, column))))
      .map((column) => ({ ...column, ...worded[column.key] }));
    const names = index.labels.map((label) => label.name);
    const regions = index.cases.flatMap((one) => one.rows.map((row) => row.name));
    const all = [...new Set([...names, ...regions])];
    find("measured").replaceChildren(option("", "all structures"), ...all.map((name) => option(name, name)));
    find("measured").addEventListener("change", () => this.draw());
    find("search").addEventListener("input", () => this.draw());
    const heads = [["id", "Case"], ["flags", "Flags"], ...this.columns.map(({ key, name }) => [key, name])];
    find("head").append(...heads.map(([key, name]) => this.makeHead(key, name)));
    this.draw();
  },

  makeHead(key, name) {
    const button = make("button", { textContent: name, title: this.columns.find((column) => column.key === key)?.title ?? "" });
    button.addEventListener("click", () => this.sortBy(key));
    return make("th", { scope: "col", "data-key": key }, button);
  },

  sortBy(key) {
    const first = COLUMNS.find((column) => column.key === key)?.rises ?? key === "id";
    this.isRising = this.sort === key ? !this.isRising : first;
    this.sort = key;
    this.draw();
  },

  // A value of one structure, or over all: the sum of volumes, the mean of everything else.
  value(one, { read, total }) {
    const wanted = find("measured").value;
    if (read === "p") return one.p;
    if (read === "dice" && !wanted) return one.score;
    if (read === "volume") {
      const labels = index.labels.map((label) => label.name);
      const kept = Object.entries(one.volumes).filter(([name]) => (wanted ? name === wanted : labels.includes(name)));
      return kept.length ? kept.reduce((sum, [, ml]) => sum + ml, 0) : null;
    }
    const rows = one.rows.filter((row) => (wanted ? row.name === wanted : row.label !== "region"));
    const known = rows.map((row) => row[read]).filter(isNumber);
    if (!known.length) return null;
    return known.reduce((sum, number) => sum + number, 0) / (total ? 1 : known.length);
  },

  key(one) {
    if (this.sort === "id") return one.id;
    if (this.sort === "flags") return one.flags.length;
    return this.value(one, COLUMNS.find((column) => column.key === this.sort));
  },

  passes(one) {
    const text = find("search").value.trim().toLowerCase();
    const words = [one.id, one.part, ...one.reasons].join(" ").toLowerCase();
    return words.includes(text) && (!this.flags.size || one.flags.some((flag) => this.flags.has(flag)));
  },

  draw() {
    this.shown = index.cases.filter((one) => this.passes(one));
    if (this.sort) this.shown = this.order(this.shown);
    find("body").replaceChildren(...this.shown.map((one) => this.makeRow(one)));
    for (const head of find("head").children)
      head.setAttribute("aria-sort", head.dataset.key !== this.sort ? "none" : this.isRising ? "ascending" : "descending");
    const what = this.shown.length < index.cases.length ? `${this.shown.length} of ${index.cases.length}` : `${index.cases.length}`;
    const rest = index.total > index.cases.length ? ` Only the worst ${index.cases.length} of ${index.total} are in this page.` : "";
    find("count").textContent = `${what} case${index.cases.length === 1 ? "" : "s"}${this.sort ? "" : ", worst first"}.${rest}`;
  },

  // Undefined values stay at the end whichever way the others go.
  order(cases) {
    const sign = this.isRising ? 1 : -1;
    const known = (key) => key !== null && key !== undefined;
    return cases
      .map((one) => [this.key(one), one])
      .sort(([a], [b]) => {
        if (!known(a) || !known(b)) return Number(known(b)) - Number(known(a));
        return sign * (typeof a === "string" ? a.localeCompare(b, "en", { numeric: true }) : a - b);
      })
      .map(([, one]) => one);
  },

  makeRow(one) {
    const row = make("tr", { "data-id": one.id, "aria-selected": String(one === index.cases[this.selected]) });
    row.append(make("td", { textContent: one.id, title: one.part ? `${one.id}, ${one.part}` : one.id }));
    row.append(make("td", { className: "flags" }, ...one.flags.map(flagMark)));
    for (const column of this.columns) row.append(this.makeCell(one, column));
    row.addEventListener("click", () => select(index.cases.indexOf(one)));
    return row;
  },

  makeCell(one, column) {
    const value = this.value(one, column);
    const cell = make("td", { textContent: column.digits && isNumber(value) ? value.toFixed(column.digits) : word(value) });
    if (column.key === "score" && isNumber(value)) {
      const bar = make("i");
      bar.style.width = `${100 * clamp(value, 0, 1)}%`;
      cell.append(make("span", { className: "meter", "aria-hidden": "true" }, bar));
    }
    return cell;
  },

  mark(selected) {
    this.selected = selected;
    for (const row of find("body").children) row.setAttribute("aria-selected", String(row.dataset.id === index.cases[selected].id));
    const row = find("body").querySelector('[aria-selected="true"]');
    const frame = find("scroll"); // alone is scrolled: `scrollIntoView` would take the page away from the images
    if (!row) return;
    const [top, bottom] = [row.offsetTop - find("head").offsetHeight, row.offsetTop + row.offsetHeight];
    frame.scrollTop = clamp(frame.scrollTop, bottom - frame.clientHeight, top);
  },

  // The case that stands `count` rows further down in the table as it is sorted and filtered.
  neighbour(count) {
    const at = this.shown.indexOf(index.cases[this.selected]);
    const next = at < 0 ? 0 : clamp(at + count, 0, this.shown.length - 1);
    return this.shown.length ? index.cases.indexOf(this.shown[next]) : this.selected;
  },
};
