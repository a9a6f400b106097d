// fills a table from the JSON beside it: all rows are in the page, those that match are shown
document.querySelectorAll("[data-rows]").forEach((box) => {
  const rows = JSON.parse(document.getElementById(box.dataset.rows).textContent);
  const body = box.querySelector("tbody"), said = box.querySelector("output"), field = box.querySelector("input");
  const shown = Number(box.dataset.shown), number = new Intl.NumberFormat("en");
  const heads = [...box.querySelectorAll("th")], words = rows.map((row) => row.filter((value) => typeof value === "string").join(" ").toLowerCase());
  let column = Number(box.dataset.sorted), down = true;
  function fill() {
    const asked = field.value.trim().toLowerCase();
    let found = rows.map((_, at) => at).filter((at) => words[at].includes(asked));
    const sign = down ? -1 : 1;
    found.sort((a, b) => {
      const x = rows[a][column], y = rows[b][column];
      return sign * (typeof x === "number" ? x - y : x.localeCompare(y)) || a - b;
    });
    body.replaceChildren(...found.slice(0, shown).map((at) => {
      const line = document.createElement("tr");
      rows[at].forEach((value, place) => {
        const cell = line.insertCell();
        if (typeof value === "number") { cell.textContent = number.format(value); return; }
        const text = document.createElement("bdi");
        text.textContent = text.title = value;
        cell.className = place ? "text name" : "name";
        cell.append(text);
      });
      return line;
    }));
    said.textContent = number.format(found.length) + " of " + number.format(rows.length)
      + (found.length > shown ? ", the first " + number.format(shown) + " are shown" : "");
    heads.forEach((head, place) => head.ariaSort = place !== column ? null : down ? "descending" : "ascending");
  }
  heads.forEach((head, place) => {
    head.tabIndex = 0;
    head.onclick = () => { down = place === column ? !down : rows.length > 0 && typeof rows[0][place] === "number"; column = place; fill(); };
    head.onkeydown = (event) => { if (event.key === "Enter") head.click(); };
  });
  field.oninput = fill;
  box.classList.add("live");
  fill();
});
