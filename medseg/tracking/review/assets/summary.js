// What stands on top, and what is known of the chosen case.

const measuresOf = (unit) => [
  ["dice", "Dice", 3], ["iou", "IoU", 3], ["nsd", nameNsd(unit), 3], ["hd95_mm", `HD95 ${unit}`], ["assd_mm", `ASSD ${unit}`],
  ["precision", "Precision", 3], ["recall", "Recall", 3], ["volume_reference_ml", "Reference ml"], ["volume_predicted_ml", "Predicted ml"], ["volume_error_ml", "Error ml"],
];

const NARROW = 3; // structures that fit side by side

function showSummary() {
  find("title").textContent = index.title;
  find("verdict").textContent = index.verdict;
  find("notes").append(...index.notes.map((text) => make("li", { textContent: text })));
  for (const [what, text] of index.facts) find("facts").append(make("dt", { textContent: what }), make("dd", { textContent: text }));
  find("limits").append(...index.limits.map((text) => make("li", { textContent: text })));
  for (const flag of Object.keys(FLAG_NAMES)) {
    const count = index.cases.filter((one) => one.flags.includes(flag)).length;
    const button = make("button", {
      textContent: `${FLAG_NAMES[flag]} ${count}`, title: FLAG_HINTS[flag], "aria-pressed": "false", "data-flag": flag, disabled: !count,
    });
    button.addEventListener("click", () => {
      if (!table.flags.delete(flag)) table.flags.add(flag);
      button.setAttribute("aria-pressed", String(table.flags.has(flag)));
      table.draw();
    });
    find("flags").append(button);
  }
}

function showAbout(one, note) {
  find("name").textContent = one.part ? `${one.id} · ${one.part}` : one.id;
  find("marks").replaceChildren(...one.flags.map(flagMark));
  find("reasons").replaceChildren(...one.reasons.map((text) => make("li", { textContent: text })));
  find("cut").textContent = note;
  const shown = measuresOf(unitOf(one)).filter(([key]) => one.rows.some((row) => isNumber(row[key])));
  const text = (row, [key, , digits]) => (digits && isNumber(row[key]) ? row[key].toFixed(digits) : word(row[key]));
  const cells = [
    ["", ...shown.map(([, name]) => name)],
    ...one.rows.map((row) => [row.name, ...shown.map((measure) => text(row, measure))]),
  ];
  const isTall = one.rows.length <= NARROW; // a column a structure
  const laid = isTall ? cells[0].map((_, at) => cells.map((row) => row[at])) : cells;
  const rows = laid.map((row, at) =>
    make("tr", {}, ...row.map((textContent) => make(at ? "td" : "th", { textContent }))),
  );
  const volumes = Object.entries(one.volumes).map(([name, ml]) =>
    make("tr", {}, make("td", { textContent: name }), make("td", { textContent: `${word(ml)} ml` })),
  );
  find("measures").replaceChildren(...(one.rows.length ? rows : volumes));
}
