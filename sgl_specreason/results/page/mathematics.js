"use strict";
// Elements, and mathematics in them. Text of models, run folders and servers is only ever set as text: no innerHTML, no attribute that a browser would obey.

const LONGEST_FORMULA = 4000;

function el(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children.filter((child) => child !== null && child !== ""));
  return node;
}

// ---- mathematics ----

// Where formulas are: [start, end, TeX, display]. One pass over delimiters, so that no text can make it slow.
function formulas(text) {
  const tokens = [...text.matchAll(/\\(?:boxed\s?\{|(?:begin|end)\{[a-z]{1,16}\*?\}|[^])|\$\$|[${}]/g)];
  const closers = { "\\[": "\\]", "\\(": "\\)", "$$": "$$", "$": "$" };
  const after = tokens.map(() => -1); // the token that closes this one
  const next = {}, braces = [];
  for (let i = tokens.length - 1; i >= 0; i--) {
    const token = tokens[i][0];
    if (closers[token]) after[i] = next[closers[token]] ?? -1;
    next[token] = i;
  }
  tokens.forEach(([token], i) => {
    if (token === "{" || /^\\(boxed|begin)/.test(token)) braces.push(i);
    if (token === "}" || token.startsWith("\\end{")) {
      const opener = braces.pop();
      if (opener !== undefined && tokens[opener][0].startsWith("\\begin") === (token !== "}")) after[opener] = i;
    }
  });
  const found = [];
  for (let i = 0; i < tokens.length; i++) {
    const token = tokens[i][0], start = tokens[i].index;
    if (after[i] < 0 || token === "{") continue;
    const end = tokens[after[i]].index, stop = end + tokens[after[i]][0].length;
    const whole = token.startsWith("\\b");
    const tex = whole ? text.slice(start, stop) : text.slice(start + token.length, end);
    const price = token === "$" && (/^\s|\s$|\n\s*\n/.test(tex) || /^\d/.test(text.slice(stop, stop + 1)));
    if (price || !tex.trim() || tex.length > LONGEST_FORMULA) continue;
    found.push([start, stop, tex, token === "\\[" || token === "$$" || token.startsWith("\\begin")]);
    i = after[i];
  }
  return found;
}

// Links, images and attributes of TeX.
function refuse() {
  throw new Error("not trusted");
}

// In what is marked as tight, blank lines around a formula that has a line of its own are left out.
function typeset(node) {
  const text = node.textContent, tight = node.hasAttribute("data-tight");
  const parts = [];
  let done = 0;
  for (const [start, end, tex, displayMode] of formulas(text)) {
    const place = document.createElement("span");
    try {
      katex.render(tex, place, { displayMode, output: "mathml", trust: refuse, strict: "ignore", maxExpand: 200, maxSize: 5 });
    } catch {
      continue; // not TeX that can be read or may be obeyed: it stays as it was written
    }
    aligned(place);
    const before = text.slice(done, start);
    parts.push(displayMode && tight ? before.trimEnd() : before, ...place.childNodes);
    done = end;
    if (displayMode && tight) while (/\s/.test(text.charAt(done))) done++;
  }
  if (done) node.replaceChildren(...parts, text.slice(done));
}

// Chromium does not know MathML's columnalign.
function aligned(place) {
  for (const table of place.querySelectorAll("mtable[columnalign]")) {
    const sides = table.getAttribute("columnalign").split(" ");
    for (const row of table.children) {
      [...row.children].forEach((cell, column) => (cell.style.textAlign = sides[column % sides.length]));
    }
  }
}

const near = new IntersectionObserver((seen) => {
  for (const { isIntersecting, target } of seen) {
    if (!isIntersecting) continue;
    near.unobserve(target);
    typeset(target);
  }
}, { rootMargin: "800px" });
