"use strict";
// The explorer of maps. Its data come from explorer.py; all names are set as text, never as markup.
(() => {
  const source = document.getElementById("explorer-data");
  const root = document.getElementById("explorer");
  if (!source || !root) return;
  const data = JSON.parse(source.textContent);
  const isText = data.words.length > 0;
  const count = isText ? data.words.length : data.images.length;
  const noun = isText ? "text" : "image";
  const SIDE = 320; // pixels of a canvas' longer side
  const drawing = makeDrawing(data.colors);
  const { bytes, signed } = drawing;
  const state = {
    input: 0, layer: 0, student: "", base: "", sort: "order", filter: "all", scale: "all", opacity: 0.75, smooth: true,
    outline: true, shown: new Set(data.titles.keys()),
  };
  const { KINDS, classText, everyInput, isOfKind, isRight, listed, orderOf, predictions } = makeInputs(data, state, count);

  // ------------------------------------------------------------------ elements

  function element(tag, attributes = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children);
    return made;
  }

  function choice(text, key, onChange = render) {
    const select = element("select", { "data-choice": key });
    select.addEventListener("change", () => { state[key] = select.value; onChange(); });
    choices.append(element("label", {}, element("span", {}, text), select));
    return select;
  }

  // Replaces the options [value, text, is disabled], and keeps the choice if it still exists.
  function fill(select, options) {
    const key = select.dataset.choice;
    const free = options.filter((option) => !option[2]).map((option) => String(option[0]));
    if (!free.includes(String(state[key]))) state[key] = free[0];
    select.replaceChildren(...options.map(([value, text, isDisabled]) => {
      const option = element("option", { value }, text);
      option.disabled = Boolean(isDisabled);
      return option;
    }));
    select.value = state[key];
  }

  function toggle(text, isOn, onChange) {
    const box = element("input", { type: "checkbox" });
    box.checked = isOn;
    box.addEventListener("change", () => { onChange(box.checked); render(); });
    return element("label", { class: "toggle" }, box, text);
  }

  // ------------------------------------------------------------------ numbers

  const stored = data.maps.map(({ height, width, tops, levels }) => ({
    height: Number(height), width: Number(width), tops: new Float32Array(bytes(tops).buffer), levels: new Int8Array(bytes(levels).buffer),
  }));

  // The map of an input with a title, for the chosen pair at the chosen layer.
  function mapOf(title, input = state.input) {
    const place = pair()[2][title];
    if (place === null) return null;
    const { height, width, tops, levels } = stored[place];
    const size = height * width;
    const values = Float32Array.from(levels.subarray(input * size, (input + 1) * size), (level) => level / 127 * tops[input]);
    return { height, width, values };
  }

  const limits = new Map();

  // The value that gets the last color. Maps in one unit share it.
  function limitOf(title) {
    const input = state.scale === "all" ? "all" : state.input;
    const key = [state.layer, state.student, state.base, data.scales[title], input].join("\n");
    if (!limits.has(key)) {
      const inputs = input === "all" ? everyInput : [input];
      const sizes = data.titles.flatMap((_, other) =>
        data.scales[other] === data.scales[title] && pair()[2][other] !== null
          ? inputs.flatMap((each) => Array.from(mapOf(other, each).values, Math.abs)) : []);
      limits.set(key, drawing.endOfScale(sizes, data.outlier_percent));
    }
    return limits.get(key);
  }

  // ------------------------------------------------------------------ inputs

  const sentence = (input) => data.words[input].map(([text, , isGlued]) => (isGlued ? "" : " ") + text).join("").trim();
  const pictures = data.images.map((content, input) => {
    const picture = new Image();
    picture.addEventListener("load", () => { if (input === state.input) render(); });
    picture.src = `data:image/webp;base64,${content}`;
    return picture;
  });
  const thumbnails = everyInput.map((input) => {
    const label = `${noun} ${input + 1}` + (data.labels ? `, ${classText(data.labels[input])}` : "");
    const button = element("button", { type: "button", "data-input": input, title: label });
    if (isText) button.append(sentence(input));
    else button.append(element("img", { src: `data:image/webp;base64,${data.images[input]}`, alt: "" }));
    button.setAttribute("aria-label", isText ? `${label}: ${sentence(input)}` : label);
    button.addEventListener("click", () => { state.input = input; render(); });
    return button;
  });

  function onKey(event) {
    const buttons = [...strip.children];
    const place = buttons.indexOf(document.activeElement);
    const moves = { ArrowRight: place + 1, ArrowDown: place + 1, ArrowLeft: place - 1, ArrowUp: place - 1, Home: 0, End: buttons.length - 1 };
    if (place < 0 || !(event.key in moves)) return;
    event.preventDefault();
    const chosen = buttons[Math.max(0, Math.min(buttons.length - 1, moves[event.key]))];
    chosen.click();
    chosen.focus();
  }

  // ------------------------------------------------------------------ panels

  const percent = (part, whole) => `${100 * part / whole}%`;

  function makePanel(title) {
    const text = title === null ? "input" : data.titles[title];
    const panel = { title, map: null, text };
    panel.box = element("figure", { class: "panel" }, element("figcaption", {}, text));
    if (title !== null) panel.box.dataset.title = text;
    if (isText) {
      panel.view = element("p", { class: "words", dir: "auto", role: "group" });
      panel.box.append(panel.view);
    } else {
      panel.view = element("canvas", { role: "img" });
      panel.cell = element("div", { class: "cell", hidden: "" });
      panel.box.append(element("div", { class: "frame" }, panel.view, panel.cell));
    }
    if (title === null) return panel;
    panel.view.tabIndex = 0;
    const gradient = (scheme) => `linear-gradient(to right,${data.colors[scheme].join(",")})`;
    const bar = element("div", { class: "bar" });
    // Canvas and words have these colors: canvases are the same in both schemes.
    bar.style.setProperty("--light", gradient("light"));
    bar.style.setProperty("--dark", gradient(isText ? "dark" : "light"));
    panel.ends = [element("span"), element("span", {}, "0"), element("span")];
    panel.value = element("p", { class: "value", role: "status" });
    panel.box.append(element("div", { class: "scale" }, bar, element("div", { class: "ends" }, ...panel.ends)), panel.value);
    panel.view.addEventListener("pointermove", (event) => onPointer(panel, event));
    panel.view.addEventListener("pointerdown", (event) => onPointer(panel, event));
    // A finger that was lifted leaves the value for reading.
    panel.view.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") probe(null); });
    panel.view.addEventListener("blur", () => probe(null));
    panel.view.addEventListener("keydown", (event) => onProbeKey(panel, event));
    return panel;
  }

  // Where a reader looks: a share of width and height, or a word; all panels show their value there.
  let place = null;

  function onPointer(panel, event) {
    if (isText) {
      const word = event.target.closest("[data-word]");
      probe(word ? { word: Number(word.dataset.word) } : null);
      return;
    }
    const box = panel.view.getBoundingClientRect();
    probe({ x: (event.clientX - box.left) / box.width, y: (event.clientY - box.top) / box.height });
  }

  function onProbeKey(panel, event) {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!step || !panel.map) return;
    event.preventDefault();
    const { height, width } = panel.map;
    const inside = (number, most) => Math.max(0, Math.min(most - 1, number));
    if (isText) {
      const last = data.words[state.input].length;
      probe({ word: place ? inside(place.word + step[0] + step[1], last) : 0 });
    } else {
      const [row, column] = place ? cellAt(panel.map) : [0, 0];
      const [dx, dy] = place ? step : [0, 0];
      probe({ x: (inside(column + dx, width) + 0.5) / width, y: (inside(row + dy, height) + 0.5) / height });
    }
  }

  function cellAt({ height, width }) {
    const inside = (share, size) => Math.max(0, Math.min(size - 1, Math.floor(share * size)));
    return [inside(place.y, height), inside(place.x, width)];
  }

  function probe(where) {
    place = where;
    for (const panel of panels) {
      if (panel.title === null || !panel.map) continue;
      const { height, width, values } = panel.map;
      let text = data.units[panel.title] || "\u00a0";
      if (isText) {
        for (const word of panel.view.children) word.classList.toggle("probed", place !== null && Number(word.dataset.word) === place.word);
        if (place) text = `${data.words[state.input][place.word][0]}: ${withUnit(panel, values[place.word])}`;
      } else {
        panel.cell.hidden = place === null;
        if (place) {
          const [row, column] = cellAt(panel.map);
          text = `${cellText(row, column, panel.map)}: ${withUnit(panel, values[row * width + column])}`;
          const { style } = panel.cell;
          [style.left, style.top] = [percent(column, width), percent(row, height)];
          [style.width, style.height] = [percent(1, width), percent(1, height)];
        }
      }
      panel.value.textContent = text;
    }
  }

  const cellText = (row, column, { height, width }) => `row ${row + 1} of ${height}, column ${column + 1} of ${width}`;
  const withUnit = (panel, value) => signed(value) + (data.units[panel.title] ? ` ${data.units[panel.title]}` : "");

  function drawImage(panel) {
    const picture = pictures[state.input];
    const canvas = panel.view;
    const scale = SIDE / Math.max(picture.naturalWidth, picture.naturalHeight);
    canvas.width = Math.round(picture.naturalWidth * scale);
    canvas.height = Math.round(picture.naturalHeight * scale);
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.imageSmoothingEnabled = picture.naturalWidth >= 64;
    context.drawImage(picture, 0, 0, canvas.width, canvas.height);
    if (panel.title !== null) drawing.drawMap(context, panel.map, limitOf(panel.title), state.opacity, state.smooth);
    if (state.outline && data.outlines) drawing.drawOutline(context, data.outlines, state.input);
  }

  function drawWords(panel) {
    const limit = panel.title === null ? 1 : limitOf(panel.title);
    panel.view.replaceChildren(...data.words[state.input].flatMap(([text, tokens, isGlued, isSpecial], word) => {
      const span = element("span", { class: isSpecial ? "w special" : "w", "data-word": word }, text);
      if (panel.title !== null) {
        const value = panel.map.values[word];
        drawing.paintWord(span, value / limit);
        span.title = `${tokens}: ${withUnit(panel, value)}`;
      }
      return isGlued ? [span] : [" ", span];
    }));
  }

  function label(panel) {
    const name = `${noun} ${state.input + 1}` + (data.labels ? `, ${classText(data.labels[state.input])}` : "");
    if (panel.title === null) return name;
    const { values, width } = panel.map;
    const used = isText ? values.slice(0, data.words[state.input].length) : values;
    const largest = used.reduce((best, value, at) => (Math.abs(value) > Math.abs(used[best]) ? at : best), 0);
    const where = isText ? `at \u201c${data.words[state.input][largest][0]}\u201d`
      : `at ${cellText(Math.floor(largest / width), largest % width, panel.map)}`;
    const found = used[largest] ? `largest value ${withUnit(panel, used[largest])} ${where}` : "all zero";
    const of = `Student ${state.student} given Base ${state.base} at ${data.layers[state.layer]}`;
    return `${panel.text} map of ${name}, ${of}: ${found}`;
  }

  function draw(panel) {
    if (panel.title !== null) {
      panel.map = mapOf(panel.title);
      panel.box.hidden = !state.shown.has(panel.title) || panel.map === null;
      if (panel.box.hidden) return;
      const end = limitOf(panel.title);
      [panel.ends[0].textContent, panel.ends[2].textContent] = [signed(-end), signed(end)];
    }
    panel.view.setAttribute("aria-label", label(panel));
    if (isText) drawWords(panel);
    else if (pictures[state.input].complete) drawImage(panel);
  }

  // ------------------------------------------------------------------ facts

  const isInPairs = (model) => data.pairs.flat().some(([student, base]) => model === student || model === base);

  function drawFacts() {
    const { input } = state;
    const prediction = (model, role) => {
      const verdict = { true: "right", false: "wrong", null: "" }[isRight(model, input)];
      return [model + role, classText(predictions.get(model)[input]), verdict];
    };
    const chosen = [[state.student, " (Student)"], [state.base, " (Base)"]].filter(([model]) => predictions.has(model));
    const others = [...predictions.keys()].filter((model) => model !== state.student && model !== state.base);
    const rows = [
      ...(data.labels ? [["true class", classText(data.labels[input]), ""]] : []),
      ...chosen.map(([model, role]) => prediction(model, role)),
      ...others.filter((model) => !isInPairs(model)).map((model) => prediction(model, "")),
    ];
    const order = orderOf();
    if (order && order.layers[state.layer][input] !== null) {
      const part = order.layers[state.layer][input];
      const parts = order.layers[state.layer].filter((other) => other !== null);
      rows.push([order.text, signed(part), `rank ${1 + parts.filter((other) => other > part).length} of ${parts.length}`]);
    }
    fillTable(facts, rows);
    fillTable(moreFacts, others.filter(isInPairs).map((model) => prediction(model, "")));
    more.hidden = moreFacts.rows.length === 0;
    heading.textContent = `${noun} ${input + 1} of ${count}`;
  }

  function fillTable(table, rows) {
    table.replaceChildren(...rows.map(([head, ...cells]) =>
      element("tr", {}, element("th", { scope: "row" }, head), ...cells.map((cell) => element("td", { class: cell === "wrong" ? cell : "" }, cell)))));
  }

  // ------------------------------------------------------------------ all together

  const pair = () => data.pairs[state.layer].find(([student, base]) => student === state.student && base === state.base);
  const unique = (values) => [...new Set(values)];

  function fillChoices() {
    state.layer = Number(state.layer);
    fill(selects.layer, data.layers.map((name, place) => [place, name]));
    state.layer = Number(state.layer);
    const pairs = data.pairs[state.layer];
    fill(selects.student, unique(pairs.map(([student]) => student)).map((name) => [name, name]));
    fill(selects.base, pairs.filter(([student]) => student === state.student).map(([, base]) => [base, base]));
    const isJudged = [state.student, state.base].every((name) => isRight(name, 0) !== null);
    fill(selects.filter, Object.entries(KINDS).map(([kind, [text]]) => {
      const size = kind !== "all" && !isJudged ? 0 : everyInput.filter((input) => isOfKind(kind, input)).length;
      return [kind, `${text} (${size})`, kind !== "all" && !isJudged];
    }));
    fill(selects.sort, [
      ["order", "order in the data"],
      ...(data.labels ? [["class", "class"]] : []),
      ...(data.labels && predictions.size ? [["predictions", "right and wrong predictions", !isJudged]] : []),
      ...data.orders.map(({ text, layers }, place) =>
        [`part${place}`, `largest ${text}`, layers[state.layer].every((part) => part === null)]),
    ]);
    fill(selects.scale, [["all", `all ${noun}s`], ["one", `this ${noun}`]]);
    selects.filter.parentElement.hidden = !data.labels || !predictions.size;
    for (const box of toggles.querySelectorAll("[data-title]")) {
      box.querySelector("input").disabled = pair()[2][Number(box.dataset.title)] === null;
    }
  }

  function render() {
    fillChoices();
    const inputs = listed();
    const isEmpty = inputs.length === 0;
    if (!isEmpty && !inputs.includes(state.input)) [state.input] = inputs;
    const buttons = inputs.map((input) => thumbnails[input]);
    if (buttons.length !== strip.children.length || buttons.some((button, place) => button !== strip.children[place])) {
      strip.replaceChildren(...buttons);
    }
    for (const button of buttons) {
      const isChosen = Number(button.dataset.input) === state.input;
      button.setAttribute("aria-pressed", isChosen);
      button.tabIndex = isChosen ? 0 : -1;
    }
    const order = orderOf();
    note.textContent = isEmpty ? `No ${noun} of this kind.` : order ? order.cautions[state.layer] : "";
    stage.hidden = isEmpty;
    if (isEmpty) return;
    drawFacts();
    panels.forEach(draw);
    probe(place);
  }

  const choices = element("div", { class: "choices", role: "group", "aria-label": "Choice of maps" });
  const selects = {
    layer: choice("Layer", "layer"), student: choice("Student", "student"), base: choice("Base", "base"),
    sort: choice("Sorted by", "sort"), filter: choice("Inputs", "filter"), scale: choice("Color scale of", "scale"),
  };
  if (!isText) {
    const slider = element("input", { type: "range", min: 0, max: 1, step: 0.05, value: state.opacity });
    slider.addEventListener("input", () => { state.opacity = Number(slider.value); render(); });
    choices.append(element("label", {}, element("span", {}, "Opacity of the map"), slider));
  }
  const toggles = element("div", { class: "toggles", role: "group", "aria-label": "Shown maps" });
  data.titles.forEach((text, title) => {
    const box = toggle(text, true, (isOn) => (isOn ? state.shown.add(title) : state.shown.delete(title)));
    box.dataset.title = title;
    toggles.append(box);
  });
  if (!isText) toggles.append(toggle("smooth", true, (isOn) => { state.smooth = isOn; }));
  if (!isText && data.outlines) toggles.append(toggle("outline of the object", true, (isOn) => { state.outline = isOn; }));
  const strip = element("div", { class: isText ? "strip texts" : "strip", role: "group", "aria-label": `Choice of the ${noun}; arrow keys go to the next one` });
  strip.addEventListener("keydown", onKey);
  const note = element("p", { class: "note", role: "status" });
  const heading = element("p", { class: "heading" });
  const [facts, moreFacts] = ["facts", "facts"].map((name) => element("table", { class: name }));
  const more = element("details", {}, element("summary", {}, "Predictions of the other models"), moreFacts);
  const panels = [null, ...data.titles.keys()].map(makePanel);
  const [first, ...others] = panels.map((panel) => panel.box);
  const stage = element("div", { class: isText ? "stage texts" : "stage" },
    element("div", { class: "chosen" }, first, element("div", {}, heading, facts, more)), element("div", { class: "panels" }, ...others));
  const shared = unique(data.scales).map((scale) => data.titles.filter((_, title) => data.scales[title] === scale));
  const help = element("p", { class: "note" }, [
    "Red is above 0, blue is below 0.",
    ...shared.filter((titles) => titles.length > 1).map((titles) => `One color scale: ${titles.join(", ")}.`),
    ...(data.units.every((unit) => unit) ? [] : ["Maps without a unit: compare places, not sizes, with other maps."]),
    ...(isText ? [] : [`The largest values, which sum to ${data.outlier_percent}% of all, have the end's color.`]), data.note,
  ].join(" "));
  root.replaceChildren(choices, toggles, strip, note, stage, help);
  render();
})();
