const root = document.documentElement;
const themes = { auto: "as the system", light: "light", dark: "dark" };
const remembered = () => { try { return localStorage.getItem("equipoise-theme"); } catch { return null; } };
const theme = document.getElementById("theme");
const show = (name) => {
  root.dataset.theme = name;
  theme.textContent = `Colours: ${themes[name]}`;
  try { localStorage.setItem("equipoise-theme", name); } catch { /* a file that may not remember */ }
};
theme.hidden = false;
theme.onclick = () => {
  const names = Object.keys(themes);
  show(names[(names.indexOf(root.dataset.theme) + 1) % names.length]);
};
show(remembered() in themes ? remembered() : "auto");

for (const svg of document.querySelectorAll(".chart > svg")) {
  const lines = JSON.parse(svg.dataset.numbers);
  const tip = svg.nextElementSibling, cursor = svg.querySelector(".cursor");
  const places = [...new Set(lines.flatMap((line) => line.x))].sort((a, b) => a - b);
  const width = svg.viewBox.baseVal.width;
  let at = places.length - 1;
  const nearest = (line, x) =>
    line.x.reduce((best, value, i) => (Math.abs(value - x) < Math.abs(line.x[best] - x) ? i : best), 0);
  const point = (x) => {
    if (!places.length) return;
    cursor.setAttribute("x1", x);
    cursor.setAttribute("x2", x);
    cursor.removeAttribute("hidden");
    tip.replaceChildren();
    const near = lines.filter((line) => x >= line.x[0] - 12 && x <= line.x.at(-1) + 12);
    if (near.length) tip.append(Object.assign(document.createElement("b"),
      { textContent: `${near[0].steps[nearest(near[0], x)]} steps` }));
    for (const line of near.slice(0, 12)) {
      const row = document.createElement("div"), name = document.createElement("span");
      const sample = document.querySelector(`#samples .n${line.style}`);
      if (sample) row.append(sample.cloneNode(true));
      name.textContent = `${line.name}: ${line.values[nearest(line, x)]}`;
      row.append(name);
      tip.append(row);
    }
    tip.hidden = false;
    const scale = svg.clientWidth / width, left = svg.offsetLeft + x * scale;
    const room = svg.parentElement.clientWidth - tip.offsetWidth - 4;
    tip.style.left = `${Math.max(4, Math.min(left + 12 > room ? left - tip.offsetWidth - 12 : left + 12, room))}px`;
    tip.style.top = `${svg.offsetTop + 6}px`;
  };
  const leave = () => { tip.hidden = true; cursor.setAttribute("hidden", ""); };
  const closest = (x) => places.reduce((best, p, i) => (Math.abs(p - x) < Math.abs(places[best] - x) ? i : best), 0);
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    at = closest(((event.clientX - box.left) / box.width) * width);
    point(places[at]);
  });
  svg.addEventListener("pointerleave", leave);
  svg.addEventListener("focus", () => point(places[at]));
  svg.addEventListener("blur", leave);
  svg.addEventListener("keydown", (event) => {
    const to = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: places.length - 1 }[event.key];
    if (event.key === "Escape") leave();
    if (to === undefined) return;
    event.preventDefault();
    at = Math.max(0, Math.min(places.length - 1, to));
    point(places[at]);
  });
}

for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.append(...head.childNodes);
    head.append(button);
    button.onclick = () => {
      const down = head.getAttribute("aria-sort") !== "descending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const key = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
      const compare = (a, b) => {
        const [x, y] = [key(a), key(b)], numbers = x !== "" && y !== "" && !isNaN(x) && !isNaN(y);
        if ((x === "") !== (y === "")) return x === "" ? 1 : -1;
        const order = numbers ? x - y : x.localeCompare(y, undefined, { numeric: true });
        return down ? -order : order;
      };
      table.tBodies[0].append(...[...table.tBodies[0].rows].sort(compare));
    };
  });
}

for (const button of document.querySelectorAll("button.film")) {
  const image = button.closest("figure").querySelector("img"), moving = image.src;
  button.hidden = false;
  const still = () => {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
    canvas.getContext("2d").drawImage(image, 0, 0);
    image.src = canvas.toDataURL();
    button.textContent = "Play";
  };
  button.onclick = () => {
    if (button.textContent === "Pause") still();
    else { image.src = moving; button.textContent = "Pause"; }
  };
  if (matchMedia("(prefers-reduced-motion: reduce)").matches) {
    if (image.complete) still(); else image.onload = () => { image.onload = null; still(); };
  }
}
