// ---- the API ----

const at = (id) => document.getElementById(id);

const REFUSALS = {
  __proto__: null,
  0: "The server cannot be reached.",
  401: "The server asks for its key.",
  429: "The server has as many questions as it can take.",
  503: "The models are away at the moment.",
  504: "The server gave up: this took too long.",
};

// What the server did not do: the status of its reply (0: there was none), its words, and the seconds it asks to wait.
class Refusal extends Error {
  constructor(status, message, wait = 0) {
    super([REFUSALS[status] ?? (message ? "" : `The server refused this (${status}).`), message].filter(Boolean).join(" "));
    Object.assign(this, { status, wait });
  }
}

async function call(path, options = {}) {
  const key = at("key").value.trim();
  if (/[^ -~]/.test(key)) throw new Refusal(401, "This one has characters that no key has.");
  const headers = { "Content-Type": "application/json", ...(key && { Authorization: `Bearer ${key}` }) };
  let response;
  try {
    response = await fetch(path, { ...options, headers, cache: "no-store" });
  } catch (error) {
    throw error.name === "AbortError" ? error : new Refusal(0);
  }
  if (response.ok) return response;
  const { error } = await response.json().catch(() => ({}));
  throw new Refusal(response.status, error?.message ?? error, Number(response.headers.get("Retry-After")) || 0);
}

// The chunks of a streamed reply; it is broken if it ends before it says so.
async function* chunks(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  try {
    for (let rest = ""; ; ) {
      const { done, value } = await reader.read();
      if (done) throw new Error("cut off");
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) {
        if (!line.startsWith("data:")) continue;
        const data = line.slice(5).trim();
        if (data === "[DONE]") return;
        const chunk = JSON.parse(data);
        if (chunk.error) throw new Refusal(chunk.error.code, `The server stopped with an error: ${chunk.error.message ?? "unknown"}`);
        yield chunk;
      }
    }
  } catch (error) {
    if (error.name === "AbortError" || error instanceof Refusal) throw error;
    throw new Refusal(0, "The connection broke before the end of the reply.");
  } finally {
    reader.cancel().catch(() => {});
  }
}

// ---- text that is being written ----

// Each paragraph gets its mathematics when the next one begins, and the whole text when it is over.
class Flow {
  whole = "";
  tail = new Text();
  node = el("div", { class: "text", dir: "auto", "data-tight": "" }, this.tail);

  add(text) {
    this.whole += text;
    const open = this.tail.data + text, cut = open.lastIndexOf("\n\n") + 2;
    if (cut > 1) {
      const over = el("span", { "data-tight": "" }, open.slice(0, cut));
      this.tail.before(over);
      near.observe(over);
      this.tail.data = open.slice(cut);
    } else {
      this.tail.appendData(text);
    }
  }

  end() {
    this.node.replaceChildren(this.whole.replace(/^\n+|\s+$/g, ""));
    near.observe(this.node);
  }
}

// ---- a reply ----

const number = new Intl.NumberFormat("en", { maximumFractionDigits: 2 });
const shown = (value) => (Number.isFinite(value) ? number.format(value) : String(value));
const known = (value) => value !== null && value !== undefined;
const count = (value, what) => (known(value) ? `${shown(value)} ${what}${value === 1 ? "" : "s"}` : "");
const seconds = (value) => `${value.toFixed(value < 9.95 ? 2 : 1)} s`;
const ENDS = {
  __proto__: null,
  budget: "the thought was closed at its budget",
  loop: "the thought went in circles and was closed",
  context: "the thought was closed because the models have no more room",
  eos: "the thought ended without a word",
};

function head(...words) {
  const [title, ...rest] = words.filter(Boolean);
  return el("span", { class: "head" }, el("b", {}, title), ...rest.map((word) => el("span", {}, word)));
}

class Reply {
  steps = el("ol", { class: "steps" });
  title = el("span", {}, "Waiting");
  strip = el("span", { class: "strip", "aria-hidden": "true" });
  thought = el("details", { class: "thought", hidden: "" }, el("summary", {}, this.title, this.strip), this.steps);
  node = el("div", { class: "reply" }, this.thought);
  written = { small: 0, base: 0 };

  // `author` writes what comes before it is known whose step it is.
  constructor(author) {
    this.author = author;
    this.thought.open = at("thoughts").checked;
  }

  take({ choices, specreason, usage }) {
    const { delta = {}, finish_reason } = choices?.[0] ?? {};
    const thought = delta.reasoning_content ?? delta.reasoning;
    if (thought) this.think(thought);
    if (specreason?.step) this.step(specreason.step);
    if (delta.content) this.say(delta.content);
    this.finish ??= finish_reason;
    this.usage = usage ?? this.usage;
    if (specreason?.method) this.account = specreason;
  }

  think(text) {
    if (!this.flow) {
      this.flow = new Flow();
      this.box = el("div", { class: `box writing ${this.author}` }, head(`${this.author} writes`), this.flow.node);
      this.steps.append(el("li", {}, this.box));
      this.thought.hidden = false;
      this.told("Thinking");
    }
    this.flow.add(text);
  }

  step({ n, by, score, tokens, draft, draft_tokens }) {
    if (!this.flow) this.think("");
    const author = by === "small" ? "small" : "base";
    const scored = known(score) ? `score ${shown(score)}` : "";
    const rejected = author === "base" && (known(draft) || draft_tokens > 0);
    this.box.className = `box ${author}`;
    this.box.firstChild.replaceWith(head(`${shown(n)} ${author}`, count(tokens, "token"), rejected ? scored && `its draft: ${scored}` : scored));
    if (rejected && known(draft)) this.draft(draft, draft_tokens, scored);
    this.flow.end();
    this.flow = null;
    this.written[author]++;
    this.strip.append(el("i", { class: author }));
    this.told("Thinking");
  }

  draft(text, tokens, scored) {
    const flow = new Flow();
    flow.add(text);
    flow.end();
    const node = el("details", { class: "box small draft" }, el("summary", {}, head("rejected draft", count(tokens, "token"), scored)), flow.node);
    node.open = at("drafts").checked;
    this.box.after(node);
  }

  say(text) {
    if (!this.said) {
      this.thinks();
      this.said = new Flow();
      this.node.append(el("div", { class: "box end answer" }, head("Answer"), this.said.node));
    }
    this.said.add(text);
  }

  // As it is sent back with the next question.
  get answer() {
    return this.said?.whole ?? "";
  }

  // Ends the thought: what nobody was named for stays with whoever was writing.
  thinks() {
    this.flow?.end();
    this.box?.classList.remove("writing");
    this.flow = null;
    this.told("Thought");
  }

  end() {
    this.thinks();
    this.said?.end();
    const told = this.facts().filter((fact) => fact.length);
    if (told.length) this.node.append(el("p", { class: "facts" }, ...told.flatMap((fact, i) => (i ? [" · ", ...fact] : fact))));
  }

  facts() {
    const { account = {}, usage = {} } = this;
    const about = [];
    for (const name of ["base", "small"]) {
      const tokens = account[`tokens_${name}`], took = account[`seconds_${name}`];
      const words = [tokens > 0 && `${count(tokens, "token")} of thought`, took > 0 && seconds(took)].filter(Boolean);
      if (words.length) about.push([el("b", { class: name }, name), ` ${words.join(", ")}`]);
    }
    if (account.tokens_discarded) about.push([`${count(account.tokens_discarded, "token")} discarded`]);
    if (account.judge_requests) about.push([count(account.judge_requests, "judgement"), Number.isFinite(account.acceptance) ? `, ${Math.round(100 * account.acceptance)} % accepted` : ""]);
    if (Number.isFinite(usage.completion_tokens)) {
      const thought = usage.completion_tokens_details?.reasoning_tokens ?? 0, cached = usage.prompt_tokens_details?.cached_tokens;
      about.push([`prompt ${shown(usage.prompt_tokens)}${cached ? ` (${shown(cached)} cached)` : ""}, thought ${shown(thought)}, answer ${count(usage.completion_tokens - thought, "token")}`]);
    }
    if (Number.isFinite(account.seconds)) about.push([`${seconds(account.seconds)} in all`]);
    if (ENDS[account.thought_ended_by]) about.push([ENDS[account.thought_ended_by]]);
    if (this.finish === "length") about.push(["cut short at a limit"]);
    return about;
  }

  told(phase) {
    const { small, base } = this.written;
    this.title.textContent = small + base ? `${phase}: ${count(small + base, "step")}, ${shown(small)} by small, ${shown(base)} by base` : phase;
    status(phase === "Thought" ? "Answering" : phase);
  }
}

// ---- the conversation ----

const turns = []; // { question, node, reply }
let running = null; // what stops the reply that is being written
let follows = false;

function status(words) {
  if (at("status").textContent !== words) at("status").textContent = words;
}

const chosen = () => models.find((model) => model.id === at("model").value) ?? {};
const method = (model) => model.specreason?.method ?? model.id;
const judges = (model) => method(model) === "specreason";
const thinks = (model) => model.id !== "base-direct";

function asked(turn) {
  const model = chosen();
  const before = turns.slice(0, turns.indexOf(turn)).filter(({ reply }) => reply.answer.trim());
  const said = before.flatMap(({ question, reply }) => [
    { role: "user", content: question },
    { role: "assistant", content: reply.answer },
  ]);
  return {
    model: model.id,
    messages: [...said, { role: "user", content: turn.question }],
    stream: true,
    stream_options: { include_usage: true },
    ...(thinks(model) && { thinking_token_budget: budgets[at("budget").value] }),
    specreason: { steps: true, drafts: true, ...(judges(model) && { threshold: Number(at("threshold").value) }) },
  };
}

// Words about what went wrong, and ways to go on: [label, action]. The first waits, if the server asks for that, or is pressed at once.
function problem(words, ways, { wait = 0, mild = false } = {}) {
  const buttons = ways.map(([label, action]) => {
    const button = el("button", { type: "button" }, label);
    button.addEventListener("click", () => {
      action();
      at("message").focus();
    });
    return button;
  });
  const [[label]] = ways, until = Date.now() + 1000 * wait;
  const tick = () => {
    const left = Math.ceil((until - Date.now()) / 1000);
    buttons[0].textContent = left > 0 ? `${label} (best in ${left} s)` : label;
    if (left > 0) setTimeout(tick, 250);
  };
  tick();
  return el("div", { class: mild ? "problem mild" : "problem" }, el("p", {}, words), ...buttons);
}

async function answer(turn) {
  document.querySelectorAll(".turn .problem").forEach((node) => node.remove());
  const model = chosen(), reply = new Reply(method(model) === "small" ? "small" : "base");
  turn.reply?.node.remove();
  turn.reply = reply;
  turn.node.append(reply.node);
  running = new AbortController();
  busy(true);
  let failed = null;
  try {
    const body = JSON.stringify(asked(turn));
    const response = await call("v1/chat/completions", { method: "POST", body, signal: running.signal });
    for await (const chunk of chunks(response)) reply.take(chunk);
  } catch (error) {
    failed = error;
  }
  reply.end();
  running = null;
  busy(false);
  if (!turn.node.isConnected) return; // another conversation has begun
  if (!failed && !reply.answer.trim()) failed = new Error("The reply ended before an answer.");
  if (failed) fail(turn, failed);
  else status("Done");
}

function fail(turn, error) {
  const stopped = error.name === "AbortError";
  const left = turn.reply.answer.trim() ? "What came is kept." : "The next question is sent without this one.";
  const ways = [["Try again", () => running || answer(turn)]];
  if (turns.length > 1) ways.push(["New conversation", begin]);
  const node = problem(`${stopped ? "Stopped." : error.message} ${left}`, ways, { wait: error.wait, mild: stopped });
  turn.reply.node.append(node);
  status(stopped ? "Stopped" : "Failed");
  if (!stopped) node.setAttribute("role", "alert");
  if (error.status === 401) askKey();
}

function busy(is) {
  at("stop").hidden = !is;
  at("send").setAttribute("aria-disabled", is);
  at("conversation").setAttribute("aria-busy", is);
  if (!is) return;
  status("Waiting");
  follows = true;
  const begun = Date.now();
  const clock = setInterval(() => {
    at("clock").textContent = `${((Date.now() - begun) / 1000).toFixed(1)} s`;
    if (!running) clearInterval(clock);
  }, 100);
}

function send() {
  const question = at("message").value.trim();
  if (running || !question || !models.length) return;
  const flow = new Flow();
  flow.add(question);
  flow.end();
  const node = el("section", { class: "turn", "aria-label": `Turn ${turns.length + 1}` }, el("div", { class: "you" }, el("span", { class: "hidden" }, "You: "), flow.node));
  const turn = { question, node };
  turns.push(turn);
  at("intro").hidden = true;
  at("conversation").append(node);
  at("message").value = "";
  answer(turn);
}

function stop() {
  if (!running) return;
  running.abort();
  at("message").focus();
}

function begin() {
  running?.abort();
  turns.splice(0).forEach(({ node }) => node.remove());
  at("intro").hidden = false;
  status("");
  at("clock").textContent = "";
  at("message").focus();
}

// ---- settings ----

let models = [];
let budgets = [];

function ranged() {
  const { threshold, score_rule, threshold_range, budget_tokens, answer_tokens } = models[0].specreason;
  const [low, high] = threshold_range;
  Object.assign(at("threshold"), { min: low, max: high, step: high - low <= 1 ? 0.01 : score_rule === "greedy" ? 1 : 0.1, value: threshold });
  const most = Math.max(budget_tokens, models[0].max_model_len - answer_tokens);
  const doubled = Array.from({ length: 20 }, (_, i) => [16 * 2 ** i, 24 * 2 ** i]).flat();
  budgets = [...new Set([...doubled.filter((tokens) => tokens < most), budget_tokens, most])].sort((one, other) => one - other);
  at("budget").max = budgets.length - 1;
  at("budget").value = budgets.indexOf(budget_tokens);
}

function settled() {
  if (!models.length) return;
  at("threshold-setting").hidden = !judges(chosen());
  at("budget-setting").hidden = !thinks(chosen());
  at("threshold-value").textContent = shown(Number(at("threshold").value));
  at("budget-value").textContent = shown(budgets[at("budget").value]);
  at("budget").setAttribute("aria-valuetext", count(budgets[at("budget").value], "token"));
}

function askKey() {
  at("settings").open = true;
  at("key").focus();
}

async function load() {
  at("server").replaceChildren();
  try {
    const first = !models.length;
    models = (await (await call("v1/models")).json()).data;
    if (first) ranged();
  } catch (error) {
    const words = error instanceof Refusal ? error.message : "This server speaks in another way than this page expects.";
    at("server").append(problem(words, [["Try again", load]], { wait: error.wait }));
    if (error.status === 401) askKey();
    return;
  }
  const before = at("model").value;
  at("model").replaceChildren(...models.map(({ id }) => el("option", { value: id }, id)));
  if (models.some(({ id }) => id === before)) at("model").value = before;
  settled();
}

at("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
at("message").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  send();
});
addEventListener("keydown", (event) => event.key === "Escape" && !event.isComposing && stop());
at("stop").addEventListener("click", stop);
at("new").addEventListener("click", begin);
at("key").addEventListener("change", () => {
  try {
    sessionStorage.setItem("key", at("key").value);
  } catch {} // a browser that stores nothing
  load();
});
for (const event of ["input", "change"]) at("settings").addEventListener(event, settled);
at("model").addEventListener("change", settled);
for (const [id, kind] of [["thoughts", "thought"], ["drafts", "draft"]]) {
  at(id).addEventListener("change", () => document.querySelectorAll(`details.${kind}`).forEach((node) => (node.open = at(id).checked)));
}

// The page follows what is written until somebody scrolls up, or does something after the end; `seen` also knows where it
// moved by itself.
let seen = 0;
addEventListener("scroll", () => {
  const below = document.documentElement.scrollHeight - innerHeight - scrollY;
  if (running && below < 40) follows = true;
  else if (scrollY < seen) follows = false;
  seen = scrollY;
}, { passive: true });
for (const event of ["pointerdown", "keydown"]) addEventListener(event, () => (follows &&= running !== null));
new ResizeObserver(() => {
  if (!follows) return;
  scrollTo(0, document.documentElement.scrollHeight);
  seen = scrollY;
}).observe(at("conversation"));

at("settings").open = matchMedia("(min-width: 48rem)").matches;
try {
  at("key").value = sessionStorage.getItem("key") ?? "";
} catch {}
load();
