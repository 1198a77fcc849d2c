// The walk through searches: a list with filters, and one search with its steps, candidates and verdicts.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("searches").textContent);
  const list = document.getElementById("list");
  const pane = document.getElementById("search");
  const filters = document.getElementById("filters");
  let shown = [];
  let current = null;

  // An element with a class, attributes and children; texts are never read as HTML.
  function make(tag, className, ...children) {
    const element = document.createElement(tag);
    if (className) element.className = className;
    element.append(...children.filter((child) => child !== null));
    return element;
  }

  const letter = (index) => String.fromCharCode(97 + index);
  const count = (number, word) => `${number} ${word}${number === 1 ? "" : "s"}`;

  function marksOf(search) {
    const marks = [];
    if (search.failed) marks.push(search.error ? "failed" : search.end.replaceAll("_", " "));
    if (search.wrong) marks.push("wrong");
    if (search.ties) marks.push(count(search.ties, "tie"));
    if (search.flips) marks.push(count(search.flips, "flip"));
    return marks.join(", ");
  }

  function passes(search) {
    const wanted = new FormData(filters);
    if (wanted.get("model") && search.model !== wanted.get("model")) return false;
    const text = (wanted.get("text") || "").toLowerCase();
    if (text && !`${search.id} ${search.problem}`.toLowerCase().includes(text)) return false;
    const kinds = wanted.getAll("kind");
    return kinds.length === 0 || kinds.some((kind) => search[kind]);
  }

  function fillList() {
    shown = data.searches.filter(passes);
    list.replaceChildren(
      ...shown.map((search) => {
        const marks = marksOf(search);
        const button = make("button", "", `${search.model} · ${search.id}`);
        if (marks) button.append(make("span", "mark", ` ${marks}`));
        button.append(make("br"), make("span", "soft", search.problem.slice(0, 70)));
        button.addEventListener("click", () => show(search));
        const item = make("li", "", button);
        return item;
      }),
    );
    document.getElementById("found").textContent =
      `${shown.length} of ${data.searches.length} searches` +
      (data.num > data.searches.length ? ` (the run has ${data.num})` : "");
    if (shown.length) show(shown.includes(current) ? current : shown[0]);
    else pane.replaceChildren(make("p", "soft", "No search fits these filters."));
  }

  function show(search) {
    current = search;
    for (const [place, item] of [...list.children].entries()) {
      const button = item.firstChild;
      if (shown[place] === search) {
        button.setAttribute("aria-current", "true");
        const above = item.offsetTop - list.offsetTop;
        if (above < list.scrollTop || above > list.scrollTop + list.clientHeight - item.offsetHeight) {
          list.scrollTop = above - list.clientHeight / 2;
        }
      } else {
        button.removeAttribute("aria-current");
      }
    }
    const facts = [`end: ${(search.end || "none").replaceAll("_", " ")}`];
    if (search.predicted !== null) facts.push(`answer ${search.predicted}`);
    if (search.answer !== null) facts.push(`known answer ${search.answer}`);
    const right = search.correct === null ? null
      : make("span", search.correct ? "good" : "bad", search.correct ? " right" : " wrong");
    pane.replaceChildren(
      make("h3", "", `${search.model} · ${search.id}`),
      make("pre", "", search.problem),
      make("p", "soft", facts.join(", "), right),
    );
    if (search.error) pane.append(make("p", "bad", `failed: ${search.error}`));
    pane.append(...search.steps.map((step, place) => stepOf(step, search.steps[place - 1])));
  }

  function stepOf(step, before) {
    const notes = [];
    if (step.outcome === "rolled_back") {
      notes.push(step.number > 1
        ? `tie: no preference, went back to step ${step.number - 1}`
        : "tie: no preference, sampled again");
    } else if (!step.kept) {
      notes.push("dropped later: the next step was a tie");
    } else if (before && !before.kept && before.number >= step.number) {
      notes.push("again, after going back");
    }
    if (step.outcome === "appended_without_pair") {
      notes.push(step.candidates.length === 1 ? "all candidates the same: no pair"
        : step.tied ? "no preference: the lead is within the judge's error, no pair"
          : "the judge's tokens are used up: no pair");
    }
    if (step.flips) notes.push(count(step.flips, "pair") + " changed with the order");
    if (step.truncated) notes.push(count(step.truncated, "sample") + " without a step");
    const title = make("h4", "", `Step ${step.number} `);
    if (notes.length) title.append(make("span", "note", notes.join("; ")));
    const element = make("section", step.kept ? "step" : "step gone", title);
    if (step.work) element.append(make("p", "said soft", `worked out: ${step.work}`));
    element.append(make("div", "scroll", candidatesOf(step)));
    if (step.verdicts.length) element.append(...matrixOf(step));
    return element;
  }

  function candidatesOf(step) {
    const head = make("tr", "", ...["", "score", "×", "truth"].map((name) => make("th", "", name)));
    head.append(make("th", "text", "candidate"));
    const rows = step.candidates.map((candidate, index) => {
      const role = index === step.chosen ? "chosen" : index === step.rejected ? "rejected" : "";
      const truth = { true: "right", false: "wrong" }[String(candidate.is_right)] || "–";
      const score = candidate.score === null ? "–" : candidate.score.toFixed(2);
      const text = make("td", "text", candidate.text);
      if (candidate.ended) text.append(make("span", "soft", " ■ end"));
      if (candidate.said) text.append(make("p", "said soft", candidate.said));
      return make("tr", role,
        make("td", "", `${letter(index)} `, make("span", role === "chosen" ? "good" : "bad", role)),
        make("td", "", score), make("td", "", String(candidate.count)),
        make("td", truth === "right" ? "good" : truth === "wrong" ? "bad" : "", truth), text);
    });
    return make("table", "candidates", make("thead", "", head), make("tbody", "", ...rows));
  }

  // Rows are shown as A, columns as B; a cell says how far A is preferred.
  function matrixOf(step) {
    const found = new Map(step.verdicts.map((verdict) => [`${verdict[0]},${verdict[1]}`, verdict]));
    const said = make("pre", "said");
    said.hidden = true;
    const size = step.candidates.length;
    const head = make("tr", "", make("th", "", "A ╲ B"));
    for (let column = 0; column < size; column += 1) head.append(make("th", "", letter(column)));
    const body = make("tbody", "");
    for (let row = 0; row < size; row += 1) {
      const line = make("tr", "", make("th", "", letter(row)));
      for (let column = 0; column < size; column += 1) {
        const verdict = found.get(`${row},${column}`);
        line.append(make("td", "", verdict ? cellOf(verdict, found, said) : "·"));
      }
      body.append(line);
    }
    const caption = make("caption", "", "verdicts: row as A, column as B");
    const table = make("table", "matrix", caption, make("thead", "", head), body);
    return [make("div", "scroll", table), said];
  }

  function cellOf([first, second, wins, text], found, said) {
    const other = found.get(`${second},${first}`);
    const flip = wins !== null && other && other[2] !== null && (wins > 0.5) === (other[2] > 0.5);
    const kind = wins === null ? "" : wins > 0.5 ? "first" : "second";
    const label = wins === null ? "?" : wins === 1 ? "A" : wins === 0 ? "B" : wins.toFixed(2);
    const button = make("button", `${kind}${flip ? " flip" : ""}`, label);
    const outcome = wins === null ? "no verdict" : wins > 0.5 ? `${letter(first)} wins` : `${letter(second)} wins`;
    button.setAttribute("aria-label",
      `${letter(first)} as A against ${letter(second)} as B: ${outcome}${flip ? ", the order decided" : ""}`);
    button.setAttribute("aria-expanded", "false");
    button.addEventListener("click", () => {
      const open = button.getAttribute("aria-expanded") === "true";
      for (const each of said.parentElement.querySelectorAll("[aria-expanded]")) {
        each.setAttribute("aria-expanded", "false");
      }
      button.setAttribute("aria-expanded", String(!open));
      said.hidden = open;
      said.textContent = `${letter(first)} as A, ${letter(second)} as B: ${outcome}\n${text || "(the probabilities of the two verdict tokens; no text)"}`;
    });
    return button;
  }

  function move(by) {
    const place = shown.indexOf(current) + by;
    if (place < 0 || place >= shown.length) return;
    show(shown[place]);
    list.children[place].firstChild.focus({ preventScroll: true });
  }

  document.addEventListener("keydown", (event) => {
    const inField = event.target.matches("input[type=search], select");
    if (inField || event.ctrlKey || event.metaKey || event.altKey) return;
    const inList = list.contains(event.target);
    if (event.key === "j" || (inList && event.key === "ArrowDown")) move(1);
    else if (event.key === "k" || (inList && event.key === "ArrowUp")) move(-1);
    else return;
    event.preventDefault();
  });
  filters.addEventListener("input", fillList);
  filters.addEventListener("submit", (event) => event.preventDefault());
  fillList();
})();
