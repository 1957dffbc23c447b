// The flow under the pointer: which it is, in words and in the picture.

const REACH = 12; // pixels from a dot at which it counts as under the pointer
const STILL = 4; // pixels that a click may move

// Number of the flow whose dot is nearest to a place on the canvas, or -1.
function flowAt(view, scene, x, y) {
  const { sentence, time } = scene;
  let [found, least] = [-1, REACH * REACH];
  for (let i = 0; i < sentence.flows; i++) {
    if (sentence.born[i] > time) continue;
    const p = view.place(sentence, i, time);
    const distance = (p[0] - x) ** 2 + (p[1] - y) ** 2;
    if (distance < least) [found, least] = [i, distance];
  }
  return found;
}

function cellName(page, place) {
  return `(${place % page.width}, ${Math.floor(place / page.width)})`;
}

// A flow in words: where it starts, with what energy, and where and how it ends.
function describeFlow(page, sentence, i) {
  const { flows, energy } = sentence;
  const signed = (value) => value.toPrecision(3).replace("-", "−");
  const born = sentence.born[i];
  const face = sentence.far[i] ? "far" : "near";
  const end = `cell ${cellName(page, sentence.end[i])} of the ${face} face`;
  const start = `starts at cell ${cellName(page, sentence.start[i])}`;
  const late = born ? `, a child of flow ${sentence.parent[i]}, born at step ${born},` : "";
  const children = childrenOf(sentence, i);
  const has = children.length ? ` Its children: ${children.join(", ")}.` : "";
  const last = signed(energy[page.steps * flows + i]);
  const how = sentence.arrived[i] > page.steps
    ? `never arrives and is projected onto ${end}`
    : `arrives on ${end} at step ${sentence.arrived[i]}`;
  return `Flow ${i} ${start}${late} with energy ${signed(energy[born * flows + i])}; `
    + `it ${how} with energy ${last}.${has}`;
}

// Its path so far over all others, and a ring around its dot.
function highlight(view, scene, i) {
  const { context } = view;
  const { sentence, time, palette } = scene;
  context.strokeStyle = css(palette.ink);
  context.lineWidth = 2.5;
  context.beginPath();
  for (let t = sentence.born[i]; t < time; t++) {
    const from = view.place(sentence, i, t);
    context.moveTo(from[0], from[1]);
    const to = view.place(sentence, i, Math.min(time, t + 1));
    context.lineTo(to[0], to[1]);
  }
  context.stroke();
  const [x, y] = view.place(sentence, i, time);
  context.beginPath();
  context.arc(x, y, 7, 0, 7);
  context.stroke();
}

// What is picked: the pinned flow, else the one under the pointer, else -1.
class Pick {
  constructor(said) {
    this.said = said;
    this.clear();
  }

  get flow() {
    return this.pinned >= 0 ? this.pinned : this.under;
  }

  clear() {
    this.pinned = this.under = -1;
    this.say("");
  }

  say(text) {
    const idle = "Point at a flow to see where it goes; click to pin it.";
    this.said.textContent = text || idle;
  }

  tell(page, sentence) {
    const text = this.flow < 0 ? "" : describeFlow(page, sentence, this.flow);
    this.say(this.pinned >= 0 ? `Pinned: ${text}` : text);
  }
}

function listenToPicks(view, scene, pick, redraw) {
  const { canvas } = view;
  let down = null;
  const at = (e) => {
    const box = canvas.getBoundingClientRect();
    return flowAt(view, scene, e.clientX - box.left, e.clientY - box.top);
  };
  const show = () => {
    pick.tell(view.page, scene.sentence);
    redraw();
  };
  canvas.addEventListener("pointerdown", (e) => (down = [e.clientX, e.clientY]));
  canvas.addEventListener("pointermove", (e) => {
    if (e.buttons) return; // it rotates
    const found = at(e);
    if (found === pick.under) return;
    pick.under = found;
    if (pick.pinned < 0) show();
  });
  canvas.addEventListener("pointerup", (e) => {
    const far = !down || Math.hypot(e.clientX - down[0], e.clientY - down[1]) > STILL;
    down = null;
    if (far) return;
    const found = at(e);
    pick.pinned = found === pick.pinned ? -1 : found;
    show();
  });
  canvas.addEventListener("pointerleave", () => {
    if (pick.under < 0) return;
    pick.under = -1;
    if (pick.pinned < 0) show();
  });
}
