// Draws the page from its data: `axes` name -> steps; `numbers` of the images for every combination of steps, in which
// the last axis of `order` changes fastest; `images` and `real` ones with the criteria's values and the top classes.
const data = JSON.parse(document.getElementById("data").textContent);
const { axes, order } = data;
const state = { ...data.start }; // axis -> position among its steps
const views = []; // functions that draw one part of the page at the present state

const TITLES = {
  name: "class", criterion: "criterion", conditioning: "conditioning", seed: "seed",
  guidance_scale: "guidance scale γ", feedback_scale: "feedback scale ω", dropout: "dropout of the image embedding",
};
const SLIDERS = ["guidance_scale", "feedback_scale", "dropout"];
const CHOICES = ["name", "criterion", "conditioning", "seed"].filter(axis => axes[axis].length > 1);
const MANY = 12; // steps of a choice that no longer fit as buttons
const pictured = axes.conditioning.findLastIndex(each => each !== "text"); // -1 where no image is conditioned on another

const $ = selector => document.querySelector(selector);
const make = (tag, properties, ...children) => {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
};
const spelled = step => String(step).replace("+", " + ");
const number = value => (value === null ? "–" : value.toFixed(2).replace("-", "−"));
const percent = share => `${Math.round(100 * share)} %`;

// A place is like the state: axis -> position.
const step = (axis, place = state) => axes[axis][place[axis]];
const imageAt = place => {
  const position = order.reduce((sum, axis) => sum * axes[axis].length + place[axis], 0);
  return data.images[data.numbers[position]];
};
const isPlain = place => step("conditioning", place) === "text"; // dropout means nothing there
const go = place => {
  Object.assign(state, place);
  views.forEach(draw => draw());
  const settings = new URLSearchParams(order.map(axis => [axis, step(axis)]));
  history.replaceState(null, "", `#${settings}`);
};
const restore = () => {
  for (const [axis, value] of new URLSearchParams(location.hash.slice(1))) {
    const position = (axes[axis] || []).findIndex(each => String(each) === value);
    if (position >= 0) state[axis] = position;
  }
  go(state);
};

const show = (element, image, alt) => {
  element.onload = () => element.classList.toggle("small", element.naturalWidth <= 128);
  element.src = image.src;
  element.alt = alt;
};
const bars = image => make("span", { className: "bars" }, ...image.top.map(([label, share]) => {
  const bar = make("span", { className: "bar" }, make("span", { textContent: label, title: label }), make("span", { textContent: percent(share) }));
  bar.classList.toggle("asked", label === data.asked[step("name")]);
  bar.style.setProperty("--share", percent(share).replace(" ", ""));
  return bar;
}));

// --- the settings

const slider = axis => {
  const last = axes[axis].length - 1;
  const input = make("input", { type: "range", min: 0, max: last, step: 1, disabled: last === 0 });
  const output = make("output");
  const ticks = make("div", { className: "ticks" }, ...axes[axis].map(each => make("span", { textContent: each })));
  const knob = make("label", { className: "knob" }, make("span", { className: "name" }, TITLES[axis], output), input, ticks);
  input.addEventListener("input", () => go({ [axis]: Number(input.value) }));
  views.push(() => {
    const off = axis === "dropout" && isPlain(state);
    input.value = state[axis];
    input.disabled = off || last === 0;
    input.ariaValueText = step(axis);
    output.textContent = off ? "no image" : step(axis);
    knob.classList.toggle("off", off);
  });
  return knob;
};

const choice = axis => {
  const legend = make("legend", { textContent: TITLES[axis] });
  if (axes[axis].length > MANY) {
    const select = make("select", {}, ...axes[axis].map((each, value) => make("option", { value, textContent: spelled(each) })));
    select.ariaLabel = TITLES[axis];
    select.addEventListener("change", () => go({ [axis]: Number(select.value) }));
    views.push(() => { select.value = state[axis]; });
    return make("fieldset", { className: "knob" }, legend, select);
  }
  const pills = axes[axis].map((each, position) => {
    const input = make("input", { type: "radio", name: axis, value: position });
    input.addEventListener("change", () => go({ [axis]: position }));
    views.push(() => { input.checked = state[axis] === position; });
    return make("label", {}, input, make("span", { textContent: spelled(each) }));
  });
  return make("fieldset", { className: "knob" }, legend, make("div", { className: "pills" }, ...pills));
};

// --- the chosen image

const drawChosen = () => {
  const image = imageAt(state), real = data.real[step("name")], criterion = step("criterion");
  const value = image.values[state.criterion], unguided = imageAt({ ...state, feedback_scale: 0 }).values[state.criterion];
  const settings = [
    spelled(step("conditioning")), ...(isPlain(state) ? [] : [`dropout ${step("dropout")}`]),
    `γ ${step("guidance_scale")}`, `ω ${step("feedback_scale")}`,
  ].join(", ");
  show($(".made img"), image, `${step("name")}: ${settings}`);
  $(".made figcaption").textContent = settings;
  $(".real").hidden = !real;
  if (real) show($(".real img"), real, `real ${step("name")}`);
  $(".real figcaption").textContent = `real image${isPlain(state) ? ", not used" : " it is conditioned on"}`;
  const change = state.feedback_scale && value !== null && unguided !== null ? `${value < unguided ? "" : "+"}${number(value - unguided)} against ω ${axes.feedback_scale[0]}` : "";
  const others = axes.criterion.map((each, position) => `${each} ${number(image.values[position])}`).filter((_, position) => position !== state.criterion);
  $(".verdicts").replaceChildren(
    make("p", { className: "score" }, `${criterion} `, make("b", { textContent: number(value) }), make("em", { textContent: change })),
    bars(image),
    ...(others.length ? [make("p", { className: "scores", textContent: others.join(" · ") })] : []),
  );
};

// --- the views: cells that differ in some steps and share all others with the state

const cell = (steps, title) => {
  const picture = make("img"), words = make("span");
  const button = make("button", { className: "cell", type: "button" });
  if (title) button.append(make("span", { className: "title", textContent: title }));
  button.append(picture, words);
  const place = () => ({ ...state, ...steps() });
  button.addEventListener("click", () => go(place()));
  views.push(() => {
    const here = place(), image = imageAt(here), value = number(image.values[here.criterion]);
    const settings = title || `γ ${step("guidance_scale", here)}, ω ${step("feedback_scale", here)}`;
    const top = image.top.map(([label, share]) => `${label} ${percent(share)}`).join(", ");
    show(picture, image, "");
    button.ariaPressed = order.every(axis => here[axis] === state[axis] || (axis === "dropout" && isPlain(state)));
    button.ariaLabel = `${settings}: ${step("criterion")} ${value}; ${top}`;
    words.replaceChildren(
      make("span", { className: "value" }, make("span", { textContent: step("criterion") }), make("b", { textContent: value })), bars(image),
    );
  });
  return button;
};

const fill = (figure, columns, children) => {
  const box = figure.querySelector(".cells");
  box.style.setProperty("--columns", columns);
  box.append(...children);
};

const plane = () => {
  const gammas = axes.guidance_scale, omegas = axes.feedback_scale, at = [];
  const heads = gammas.map(gamma => make("span", { className: "head", textContent: `γ ${gamma}` }));
  const rows = omegas.map((omega, feedback_scale) => {
    at.push(gammas.map((_, guidance_scale) => cell(() => ({ guidance_scale, feedback_scale }))));
    return [make("span", { className: "head side", textContent: `ω ${omega}` }), ...at[feedback_scale]];
  });
  fill($("#plane"), gammas.length, [make("span"), ...heads, ...rows.flat()]);
  const arrows = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
  $("#plane .cells").addEventListener("keydown", event => {
    const [down, right] = arrows[event.key] || [0, 0];
    const next = at[state.feedback_scale + down]?.[state.guidance_scale + right];
    if ((down || right) && next) { next.click(); next.focus(); event.preventDefault(); }
  });
  views.push(() => {
    const dropout = isPlain(state) ? "" : `, dropout ${step("dropout")}`;
    $("#plane p").textContent = `${step("name")}, guided by ${step("criterion")}, conditioned on ${spelled(step("conditioning"))}${dropout}.`;
  });
};

const strips = () => {
  const conditioning = () => (isPlain(state) ? pictured : state.conditioning);
  const levels = axes.dropout.map((share, dropout) => cell(() => ({ dropout, conditioning: conditioning() }), `dropout ${share}`));
  const text = axes.conditioning.indexOf("text");
  if (text >= 0) levels.push(cell(() => ({ conditioning: text }), "text only"));
  fill($("#dropout"), levels.length, levels);
  const kinds = axes.conditioning.map((each, position) => cell(() => ({ conditioning: position }), spelled(each)));
  fill($("#conditioning"), Math.max(kinds.length, 3), kinds);
  $("#dropout").hidden = pictured < 0;
  $("#conditioning").hidden = kinds.length < 2;
  views.push(() => {
    const scales = `γ ${step("guidance_scale")}, ω ${step("feedback_scale")}`;
    $("#dropout p").textContent = pictured < 0 ? "" : `${step("name")}, conditioned on ${spelled(axes.conditioning[conditioning()])}, ${scales}.`;
    $("#conditioning p").textContent = `${step("name")}, dropout ${step("dropout")} where there is an image, ${scales}.`;
  });
};

// --- the criterion along the feedback scale, a line per guidance scale

const trend = () => {
  const omegas = axes.feedback_scale;
  const [width, height, left, right, top, bottom] = [720, 250, 60, 90, 14, 34];
  const svg = (tag, attributes, text = "") => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    Object.entries(attributes).forEach(([name, value]) => element.setAttribute(name, value));
    element.textContent = text;
    return element;
  };
  const x = position => left + (width - left - right) * (omegas.at(-1) > omegas[0] ? (omegas[position] - omegas[0]) / (omegas.at(-1) - omegas[0]) : 0.5);
  views.push(() => {
    const criterion = step("criterion"), real = data.real[step("name")]?.values[state.criterion] ?? null;
    const lines = axes.guidance_scale.map((_, guidance_scale) => omegas.map((_, feedback_scale) =>
      imageAt({ ...state, guidance_scale, feedback_scale }).values[state.criterion]));
    const known = [...lines.flat(), real].filter(value => value !== null);
    const low = Math.min(...known), high = Math.max(...known), span = high - low || 1;
    const y = value => height - bottom - (height - top - bottom) * (value - low + 0.06 * span) / (1.12 * span);
    const chart = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${criterion} along the feedback scale, a line per guidance scale` });
    for (const value of [low, (low + high) / 2, high]) {
      chart.append(svg("line", { class: "grid-line", x1: left, x2: width - right, y1: y(value), y2: y(value) }));
      chart.append(svg("text", { x: left - 8, y: y(value) + 4, "text-anchor": "end" }, number(value)));
    }
    omegas.forEach((omega, position) => chart.append(svg("text", { x: x(position), y: height - 10, "text-anchor": "middle" }, `ω ${omega}`)));
    if (real !== null) {
      chart.append(svg("line", { class: "real-line", x1: left, x2: width - right, y1: y(real), y2: y(real) }));
    }
    lines.forEach((values, position) => {
      const chosen = position === state.guidance_scale;
      const points = values.map((value, at) => [x(at), value === null ? null : y(value)]).filter(([, value]) => value !== null);
      chart.append(svg("polyline", { class: chosen ? "line chosen" : "line", points: points.join(" ") }));
      points.forEach(([cx, cy]) => chart.append(svg("circle", { class: chosen ? "dot chosen-dot" : "dot", cx, cy, r: 3.5 })));
    });
    const here = lines[state.guidance_scale][state.feedback_scale];
    if (here !== null) chart.append(svg("circle", { class: "here", cx: x(state.feedback_scale), cy: y(here), r: 6 }));
    const ends = lines.map((values, position) => ({ text: `γ ${axes.guidance_scale[position]}`, value: values.at(-1), name: position === state.guidance_scale ? "chosen-label" : "" }));
    if (real !== null) ends.push({ text: "real image", value: real, name: "real-label" });
    let free = -Infinity;
    for (const end of ends.filter(each => each.value !== null).sort((one, other) => other.value - one.value)) {
      free = Math.max(y(end.value) + 4, free + 14); // labels never on top of each other
      chart.append(svg("text", { x: width - right + 10, y: free, class: end.name }, end.text));
    }
    $("#trend h2").textContent = `${criterion[0].toUpperCase()}${criterion.slice(1)} along the feedback scale`;
    $("#trend p").textContent = `Of the images above, a line per guidance scale${real === null ? "" : "; dashed, of the real image"}.`;
    $("#trend .chart-box").replaceChildren(chart);
  });
  $("#trend").hidden = omegas.length < 2;
};

$(".knobs").append(...CHOICES.map(choice), ...SLIDERS.filter(axis => axis !== "dropout" || pictured >= 0).map(slider));
views.push(drawChosen);
plane();
strips();
trend();
$(".bench").hidden = false;
window.addEventListener("hashchange", restore);
restore();
