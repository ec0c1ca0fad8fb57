"use strict";
// The table of lesions: headings become buttons that sort, and a line of text filters.
{
  const table = document.getElementById("lesion-table");
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const heads = [...table.tHead.rows[0].cells];
  const names = heads.map((head) => head.textContent.toLowerCase());
  const values = new Map(rows.map((row) => [row, [...row.cells].map((cell) => cell.dataset.value)]));
  const isNumber = heads.map((head) => head.classList.contains("number"));

  const compare = (column, sign) => (one, other) => {
    const [a, b] = [values.get(one)[column], values.get(other)[column]];
    // What is missing comes last, whichever way the others are sorted.
    if (a === "n/a" || b === "n/a") return (a === "n/a") - (b === "n/a");
    if (isNumber[column]) return sign * (Number(a) - Number(b));
    return sign * a.localeCompare(b, "en", { numeric: true });
  };

  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    const text = document.createElement("span");
    text.textContent = head.textContent;
    button.append(text);
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
      body.append(...[...rows].sort(compare(column, sign)));
    });
  });

  const holds = (row, term) => {
    const cells = values.get(row);
    const found = term.match(/^(.+?)(<=|>=|<|>|=)(.+)$/);
    const column = found ? names.indexOf(found[1]) : -1;
    if (column < 0) return cells.some((cell) => cell.toLowerCase().includes(term));
    const [cell, wanted] = [cells[column].toLowerCase(), found[3]];
    // An age may be told as 89+.
    const [a, b] = [Number(cell.replace(/^(\d+)\+$/, "$1")), Number(wanted)];
    switch (found[2]) {
      case "=": return cell === wanted || a === b;
      case "<": return a < b;
      case ">": return a > b;
      case "<=": return a <= b;
      default: return a >= b;
    }
  };

  const filter = document.getElementById("filter");
  filter.addEventListener("input", () => {
    const typed = filter.value.toLowerCase().replace(/\s*(<=|>=|<|>|=)\s*/g, "$1");
    const terms = typed.split(/\s+/).filter(Boolean);
    for (const row of rows) row.hidden = !terms.every((term) => holds(row, term));
    const n = rows.filter((row) => !row.hidden).length;
    document.getElementById("n-shown").textContent = `${n} of ${rows.length} lesions`;
  });
}
