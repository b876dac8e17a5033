const data = JSON.parse(document.getElementById("data").textContent);
const at = (id) => document.getElementById(id);
const columns = document.querySelector(".columns");
const MARKS = { right: "✓", wrong: "✗", failed: "!" };

function svg(name, attributes = {}, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

function prose(text, content) {
  if (!text && content.texts === "withheld") return el("div", { class: "text" }, "[withheld]");
  const node = el("div", { class: "text", dir: "auto" }, text.replace(/^\n+|\n+$/g, ""));
  near.observe(node);
  return node;
}

// An answer, which may be TeX without delimiters.
function value(text) {
  const node = el("span", {}, /[\\^_]/.test(text) ? `\\(${text}\\)` : String(text));
  near.observe(node);
  return node;
}

// ---- the list ----

const entries = [];
for (const problem of data.problems) {
  const tries = problem.tries.map(([run, sample, state, truncated, differs, seconds, number]) => {
    const about = data.runs[run];
    const name = about.samples > 1 ? `${about.name}:${sample}` : about.name;
    const extra = [differs ? "differs from base" : "", truncated ? "truncated" : ""].filter(Boolean);
    const link = el(
      "a",
      { href: `#${number}`, "aria-label": [name, state, ...extra].join(", ") },
      `${name} `,
      el("span", { class: state }, MARKS[state] + (differs ? "≠" : "") + (truncated ? "…" : "")),
    );
    return { problem, run, sample, state, truncated, differs, seconds, number, name, link };
  });
  const gold = problem.gold === null ? "" : el("span", { class: "gold" }, "answer ", value(problem.gold));
  const item = el("li", {}, el("span", { class: "id" }, problem.id), gold);
  item.append(el("div", { class: "tries" }, ...tries.map((one) => one.link)));
  entries.push({ problem, tries, item });
  at("found").append(item);
}
const every = entries.flatMap((entry) => entry.tries).sort((one, other) => one.number - other.number);
let visible = every;

function matches(one) {
  const run = at("run").value, outcome = at("outcome").value;
  if (run !== "" && one.run !== Number(run)) return false;
  if (outcome === "differs" || outcome === "truncated") return one[outcome];
  return outcome === "" || one.state === outcome;
}

function filter() {
  const wanted = at("find").value.trim().toLowerCase();
  visible = [];
  let problems = 0;
  for (const { problem, tries, item } of entries) {
    let any = false;
    const named = problem.id.toLowerCase().includes(wanted);
    for (const one of tries) {
      const shown = named && matches(one);
      one.link.hidden = !shown;
      any ||= shown;
      if (shown) visible.push(one);
    }
    item.hidden = !any;
    problems += any;
  }
  at("count").textContent =
    `${problems} of ${counted(entries.length, "problem")}, ${visible.length} of ${counted(every.length, "trajectory", "trajectories")}`;
}

// ---- one trajectory ----

function histogram(digits, threshold) {
  const told = digits.map((p, digit) => [digit, p]).filter(([, p]) => p >= 1).map(([digit, p]) => `${digit}: ${p} %`);
  const label = `digits ${told.join(", ") || "all under 1 %"}`;
  const bars = digits.flatMap((p, digit) => [
    svg("rect", { x: 7 * digit, y: 19, width: 6, height: 1, fill: "var(--line)" }),
    svg("rect", { x: 7 * digit, y: 19 - 0.19 * p, width: 6, height: 0.19 * p, fill: digit >= threshold ? "var(--think)" : "var(--soft)" }),
  ]);
  return svg("svg", { width: 70, height: 20, viewBox: "0 0 70 20", role: "img", "aria-label": label }, svg("title", {}, label), ...bars);
}

function head(title, tokens, said, about, ...more) {
  const words = [`${tokens} ${tokens === 1 ? "token" : "tokens"}`, ...more];
  if (said.score !== undefined) words.push(`score ${said.score}`);
  if (said.p_yes !== undefined) words.push(`yes ${Math.round(100 * said.p_yes)} %`);
  if (said.unasked) words.push("unasked");
  if (said.confidence !== undefined) words.push(`confidence ${said.confidence}`);
  if (said.self_right !== undefined) words.push(`small itself: right ${said.self_right}, wrong ${said.self_wrong}`);
  if (said.entropy !== undefined) words.push(`first token ${said.entropy} bits`);
  if (said.certain !== undefined) words.push(`certain tokens ${said.certain}`);
  if (said.logprob_mean !== undefined) words.push(`log-probability ${said.logprob_mean}, lowest ${said.logprob_min}`);
  if (said.label_mass < 0.5) words.push(`label mass only ${Math.round(100 * said.label_mass)} %`);
  const node = el("span", { class: "head" }, el("b", {}, title), ...words.map((word) => el("span", {}, word)));
  if (said.digits) node.append(histogram(said.digits, about.threshold));
  return node;
}

function folded(draft, title, kind, content, about) {
  const summary = el("summary", {}, head(title, draft.tokens, draft, about));
  return el("details", { class: `box small ${kind}` }, summary, prose(draft.text, content));
}

function step(one, number, content, about) {
  const more = one.salvaged ? [`${one.salvaged} of them small's`] : [];
  const box = el("div", { class: `box ${one.by}` }, head(`${number} ${one.by}`, one.tokens, one, about, ...more));
  box.append(prose(one.text, content));
  const drafts = (one.others ?? []).map((draft) => folded(draft, "another draft", "other", content, about));
  if (one.draft) drafts.unshift(folded(one.draft, "rejected draft", "rejected", content, about));
  const item = el("li", { class: drafts.length ? "step two" : "step" }, box);
  if (drafts.length) item.append(el("div", {}, ...drafts));
  return item;
}

// The union of intervals, in order.
function union(spans) {
  const merged = [];
  for (const [start, end] of [...spans].sort((one, other) => one[0] - other[0])) {
    const last = merged.at(-1);
    if (last && start <= last[1]) last[1] = Math.max(last[1], end);
    else merged.push([start, end]);
  }
  return merged;
}

function intersection(first, second) {
  const both = [];
  for (let i = 0, j = 0; i < first.length && j < second.length; ) {
    const start = Math.max(first[i][0], second[j][0]), end = Math.min(first[i][1], second[j][1]);
    if (start < end) both.push([start, end]);
    if (first[i][1] < second[j][1]) i++;
    else j++;
  }
  return both;
}

const length = (spans) => spans.reduce((sum, [start, end]) => sum + end - start, 0);
function counted(count, noun, several = `${noun}s`) {
  return `${count} ${count === 1 ? noun : several}`;
}
const seconds = (ms) => `${(ms / 1000).toFixed(ms < 9950 ? 2 : 1)} s`;

function lane(requests, whole, label) {
  const ends = [];
  const placed = requests.map((request) => {
    const row = ends.findIndex((end) => end <= request[2]);
    const mine = row < 0 ? ends.length : row;
    ends[mine] = request[2] + request[3];
    return [request, mine];
  });
  const rows = Math.max(ends.length, 1), height = 100 / rows;
  const rects = placed.map(([[, purpose, start, ms, dropped], row]) =>
    svg(
      "rect",
      { x: start, y: row * height, width: Math.max(ms, whole / 2000), height: height * 0.94, fill: `var(--${purpose})`, "fill-opacity": dropped ? 0.35 : 1 },
      svg("title", {}, `${purpose}${dropped ? ", dropped" : ""}: ${seconds(ms)} from ${seconds(start)}`),
    ),
  );
  const high = `${Math.max(1.3, 0.6 * rows)}em`;
  return svg("svg", { viewBox: `0 0 ${whole} 100`, preserveAspectRatio: "none", height: high, role: "img", "aria-label": label }, ...rects);
}

function timeline(requests) {
  if (!requests.length) return [];
  const whole = Math.max(...requests.map(([, , start, ms]) => start + ms), 1);
  const lanes = [0, 1].map((engine) => requests.filter((request) => request[0] === engine).sort((a, b) => a[2] - b[2]));
  const busy = lanes.map((lane) => union(lane.map(([, , start, ms]) => [start, start + ms])));
  const both = intersection(...busy);
  const idle = whole - length(busy[0]) - length(busy[1]) + length(both);
  const share = (ms) => `${seconds(ms)} (${Math.round((100 * ms) / whole)} %)`;
  const words =
    `${seconds(whole)} from the first request to the last: base busy ${share(length(busy[0]))}, ` +
    `small ${share(length(busy[1]))}, both at once ${share(length(both))}, neither ${share(Math.max(idle, 0))}.`;
  const grid = el("div", { class: "lanes" });
  ["base", "small"].forEach((name, engine) => {
    grid.append(el("span", {}, name), lane(lanes[engine], whole, `${name}: ${counted(lanes[engine].length, "request")}`));
  });
  const overlap = svg("svg", { viewBox: `0 0 ${whole} 1`, preserveAspectRatio: "none", height: "0.5em", role: "img", "aria-label": `both at once ${share(length(both))}` });
  for (const [start, end] of both) overlap.append(svg("rect", { x: start, width: end - start, height: 1, fill: "var(--both)" }));
  grid.append(el("span", {}, "both"), overlap);
  const ticks = [0, 0.25, 0.5, 0.75, 1].map((part) => el("span", { style: `left:${100 * part}%` }, seconds(part * whole)));
  grid.append(el("span"), el("div", { class: "ticks", "aria-hidden": "true" }, ...ticks));
  const purposes = ["draft", "self", "judge", "regenerate", "think", "answer"].filter((name) => requests.some(([, purpose]) => purpose === name));
  const key = purposes.map((name) => el("span", {}, el("i", { style: `background:var(--${name})` }), name));
  if (requests.some(([, , , , dropped]) => dropped)) key.push(el("span", {}, "pale: dropped"));
  return [el("h3", {}, "Both engines over time"), el("p", { class: "facts" }, words), grid, el("div", { class: "key" }, ...key)];
}

async function opened(number) {
  const packed = Uint8Array.from(atob(data.texts[number]), (char) => char.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
  return JSON.parse(await new Response(stream).text());
}

function verdict(one, content) {
  const state = el("span", { class: one.state }, `${MARKS[one.state]} ${one.state}`);
  if (one.state === "failed") return el("p", {}, state, `: ${content.error ?? ""}`);
  const answer = content.answer === undefined ? ["no answer"] : ["answer ", value(content.answer)];
  const more = [content.stop_reason ? `; thought ended by ${content.stop_reason}` : "", one.differs ? "; differs from base" : ""];
  return el("p", {}, state, ": ", ...answer, ", gold ", value(content.gold ?? "unknown"), ...more);
}

// What was asked. Older folders do not hold it.
function question(content) {
  if (content.question === undefined && content.texts !== "withheld") return "";
  return el("section", { class: "question", "aria-label": "Question" }, prose(content.question ?? "", content));
}

function facts(one, content) {
  const steps = content.steps, by = (name) => steps.filter((each) => each.by === name).length;
  const words = [`${counted(steps.length, "step")}: ${by("small")} by small, ${by("base")} by base`];
  if (content.thinking_tokens !== undefined) words.push(`${content.thinking_tokens} thinking tokens kept, ${content.tokens_discarded} discarded`);
  if (one.seconds !== null) words.push(`${one.seconds.toFixed(2)} s`);
  return el("p", { class: "facts" }, `${words.join("; ")}.`);
}

function moves(one) {
  const place = visible.indexOf(one);
  const go = (to, label, name) => (to ? el("a", { href: `#${to.number}`, rel: name }, label) : "");
  return el(
    "nav",
    { "aria-label": "Trajectories" },
    el("a", { href: "#problems", class: "back" }, "Back to the list"),
    place > 0 ? go(visible[place - 1], "← previous", "prev") : "",
    place >= 0 ? go(visible[place + 1], "next →", "next") : "",
    el("a", { href: "#problems", class: "close" }, "close (Esc)"),
  );
}

let current = null;

async function show() {
  const one = every[/^#\d+$/.test(location.hash) ? Number(location.hash.slice(1)) : -1] ?? null;
  const before = current;
  current = one;
  before?.link.removeAttribute("aria-current");
  columns.classList.toggle("open", one !== null);
  if (!one) {
    at("trajectory").replaceChildren();
    if (before) (before.link.hidden ? at("find") : before.link).focus();
    return;
  }
  one.link.setAttribute("aria-current", "true");
  const content = await opened(one.number);
  if (current !== one) return; // another was asked for meanwhile
  const about = data.runs[one.run];
  const title = el("h3", { tabindex: "-1" }, `${one.problem.id}, ${one.name}`);
  const parts = [moves(one), el("div", { class: "problem-head" }, title, question(content), verdict(one, content), facts(one, content))];
  if (content.shortened) {
    const command = `specreason report --show ${about.folder} ${one.problem.id}:${one.sample}`;
    parts.push(el("p", { class: "facts" }, "To keep this file small, the middle of the thought is left out; it is whole in ", el("code", {}, command)));
  }
  parts.push(...timeline(content.requests), el("h3", {}, "Steps"));
  if (content.steps.some((each) => each.digits || each.draft?.digits)) {
    parts.push(el("p", { class: "facts" }, `Bars: what the judge put on the digits 0 to 9, green from the threshold ${about.threshold} up.`));
  }
  parts.push(el("ol", { class: "steps" }, ...content.steps.map((each, i) => step(each, i + 1, content, about))));
  if (content.answer_text !== undefined) {
    parts.push(el("div", { class: "box end" }, el("span", { class: "head" }, el("b", {}, "answer")), prose(content.answer_text, content)));
  }
  at("trajectory").replaceChildren(...parts);
  at("trajectory").scrollIntoView({ block: "start" });
  title.focus({ preventScroll: true });
}

function keys(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || !current || event.target.matches("input, select")) return;
  const link = { Escape: ".close", ArrowLeft: "[rel=prev]", ArrowRight: "[rel=next]" }[event.key];
  if (link) at("trajectory").querySelector(link)?.click();
}

data.runs.forEach((run, number) => at("run").append(el("option", { value: number }, run.name)));
const notes = [];
if (data.left_out) notes.push(`${counted(data.left_out, "more problem")} of the run folders ${data.left_out === 1 ? "is" : "are"} not in this page.`);
if (data.shortened) notes.push(`Of the ${data.shortened} longest trajectories the middle is left out here; the run folders have them whole.`);
at("notes").textContent = notes.join(" ");
for (const event of ["input", "change"]) at("filters").addEventListener(event, filter);
at("filters").addEventListener("submit", (event) => event.preventDefault());
addEventListener("hashchange", show);
addEventListener("keydown", keys);
filter();
show();
