// The controls: which sentence, which step, which view; and the panels beside the cube.

const page = JSON.parse(document.getElementById("flows").textContent);
const element = (id) => document.getElementById(id);
const view = new CubeView(element("cube"), page);
const unpacked = new Map();
const pick = new Pick(element("flow"));
const scene = {
  sentence: null,
  time: page.steps,
  trails: true,
  faces: true,
  births: true,
  color: "energy",
  moving: false,
  palette: readPalette(),
};
const whole = () => Math.floor(scene.time + 1e-6);
const STEP_MS = Math.min(1000, Math.max(120, 7000 / page.steps));
let playing = false;
let last = 0; // time of the frame before, while playing
let queued = false;
let rest = 0; // timer after which the picture is drawn in full again

function request() {
  if (queued) return;
  queued = true;
  requestAnimationFrame(frame);
}

function frame(now) {
  queued = false;
  if (playing) advance(now);
  const every = view.draw({ ...scene, moving: scene.moving || playing });
  if (pick.flow >= 0) highlight(view, scene, pick.flow);
  element("thinned").textContent =
    every > 1 ? `The trails of one flow in ${every} are drawn.` : "";
  const canvas = view.canvas; // lets a test see that something was drawn anew
  canvas.dataset.frame = Number(canvas.dataset.frame || 0) + 1;
  document.documentElement.dataset.ready = "yes";
  if (playing) request();
}

function advance(now) {
  const before = whole();
  scene.time = Math.min(page.steps, scene.time + Math.max(0, now - last) / STEP_MS);
  last = now;
  if (whole() !== before) describeStep();
  if (scene.time >= page.steps) pause();
}

function moved() {
  scene.moving = true;
  clearTimeout(rest);
  rest = setTimeout(() => {
    scene.moving = false;
    request();
  }, 250);
  request();
}

function play() {
  if (whole() >= page.steps) goTo(0);
  playing = true;
  last = performance.now();
  element("play").textContent = "Pause";
  element("caption").setAttribute("aria-live", "off");
  request();
}

function pause() {
  playing = false;
  element("play").textContent = "Play";
  element("caption").removeAttribute("aria-live");
  describeStep();
  request();
}

function goTo(step) {
  scene.time = Math.min(page.steps, Math.max(0, step));
  describeStep();
  request();
}

function stepBy(change) {
  if (playing) pause();
  goTo(whole() + change);
}

function sentenceAt(index) {
  if (!unpacked.has(index)) unpacked.set(index, unpack(page.sentences[index]));
  return unpacked.get(index);
}

function choose(index) {
  if (scene.sentence !== sentenceAt(index)) pick.clear();
  scene.sentence = sentenceAt(index);
  element("result").textContent = scene.sentence.result;
  const body = element("statistics").tBodies[0];
  body.replaceChildren(
    ...scene.sentence.statistics.map(([label, value]) => {
      const row = document.createElement("tr");
      for (const text of [label, value]) row.insertCell().textContent = text;
      return row;
    })
  );
  const limit = Math.max(greatest(scene.sentence.input), greatest(scene.sentence.output));
  paintSurface("input", "Input", scene.sentence.input, limit);
  paintSurface("output", "Output", scene.sentence.output, limit);
  paintWorth(scene.sentence);
  offerOthers(index);
  describeStep();
  request();
}

function describeStep() {
  const step = whole();
  const { travelling, near, far, unborn } = census(scene.sentence, step);
  element("step").value = step;
  element("clock").textContent = `step ${step} of ${page.steps}`;
  const on = page.dual
    ? `${near} rest on the near face, ${far} on the far face`
    : `${far} rest on the far face`;
  const late = unborn ? `; ${unborn} will be spawned` : "";
  const left = step === page.steps && travelling
    ? ` What still travels is projected onto the ${page.dual ? "nearest" : "far"} face.`
    : "";
  const some = travelling === 1 ? "1 flow travels" : `${travelling} flows travel`;
  element("caption").textContent =
    `Step ${step} of ${page.steps}: ${some}, ${on}${late}.${left}`;
  element("energies").textContent = describeEnergies(scene.sentence, step);
  paintArrivals(step, near, far);
  paintChange(step);
  paintMedium(scene.sentence, step);
}

// Cells as single pixels, the first row at the bottom, enlarged by the style sheet.
function paint(canvas, color, width = page.width, height = page.height) {
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  for (let place = 0; place < width * height; place++) {
    const row = height - 1 - Math.floor(place / width);
    const at = 4 * (row * width + (place % width));
    image.data.set([...color(place), 255], at);
  }
  context.putImageData(image, 0, 0);
}

function paintArrivals(step, near, far) {
  const found = [false, true].map((face) => cells(page, scene.sentence, step, face).count);
  const crowd = crowdOf(scene.sentence);
  const { paper, crowd: full } = scene.palette;
  ["near", "far"].forEach((name, index) => {
    const count = found[index];
    const hit = count.reduce((sum, n) => sum + (n > 0), 0);
    const all = index ? far : near;
    const open = index || page.dual;
    paint(element(name), (place) => mix(paper, full, Math.min(1, count[place] / crowd)));
    const share = Math.round((100 * hit) / count.length);
    element(`${name}-text`).textContent = open
      ? `${name} face: ${all} flows on ${share} % of the cells`
      : "near face: closed";
  });
  element("crowd").textContent = crowd;
}

// Flows on a cell at which the colors end, the same for every step of a sentence: all
// but one in a hundred of the cells that are hit at the end have no more.
function crowdOf(sentence) {
  if (sentence.crowd === undefined) {
    const hit = [false, true]
      .flatMap((face) => [...cells(page, sentence, page.steps, face).count])
      .filter((count) => count > 0)
      .sort((a, b) => a - b);
    sentence.crowd = Math.max(2, hit[Math.floor(0.99 * (hit.length - 1))] || 0);
  }
  return sentence.crowd;
}

function greatest(surface) {
  return surface.reduce((top, value) => Math.max(top, Math.abs(value)), 1e-6);
}

// Both surfaces of a sentence end their colors at the same limit.
function paintSurface(name, title, surface, limit) {
  paint(element(name), signedColor(surface, limit));
  element(`${name}-text`).textContent = `${title}: −${limit.toPrecision(2)} to +${limit.toPrecision(2)}`;
}

function listen() {
  element("sentence").addEventListener("change", (e) => choose(e.target.selectedIndex));
  element("play").addEventListener("click", () => (playing ? pause() : play()));
  element("back").addEventListener("click", () => stepBy(-1));
  element("forward").addEventListener("click", () => stepBy(1));
  element("step").addEventListener("input", (e) => {
    if (playing) pause();
    goTo(Number(e.target.value));
  });
  for (const name of ["trails", "faces", "births"]) {
    element(name).addEventListener("change", (e) => {
      scene[name] = e.target.checked;
      request();
    });
  }
  element("color").addEventListener("change", (e) => {
    scene.color = e.target.value;
    describeColors();
    request();
  });
  element("other").addEventListener("change", () => paintChange(whole()));
  element("reset").addEventListener("click", () => {
    view.reset();
    request();
  });
  new ResizeObserver(request).observe(view.canvas);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    scene.palette = readPalette();
    choose(element("sentence").selectedIndex);
  });
}

function listenToPointers() {
  const { canvas } = view;
  const pointers = new Map();
  const spread = () => {
    const [a, b] = [...pointers.values()];
    return Math.hypot(a.x - b.x, a.y - b.y);
  };
  canvas.addEventListener("pointerdown", (e) => {
    pointers.set(e.pointerId, { x: e.clientX, y: e.clientY });
    canvas.setPointerCapture(e.pointerId);
  });
  canvas.addEventListener("pointermove", (e) => {
    const before = pointers.get(e.pointerId);
    if (!before) return;
    const apart = pointers.size === 2 ? spread() : 0;
    const [right, down] = [e.clientX - before.x, e.clientY - before.y];
    pointers.set(e.pointerId, { x: e.clientX, y: e.clientY });
    if (pointers.size === 2) view.enlarge(spread() / Math.max(1, apart));
    else view.rotate(right * 0.008, down * 0.008);
    moved();
  });
  for (const name of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(name, (e) => pointers.delete(e.pointerId));
  }
  canvas.addEventListener(
    "wheel",
    (e) => {
      e.preventDefault();
      view.enlarge(Math.exp(-e.deltaY * 0.0015));
      moved();
    },
    { passive: false }
  );
}

const ON_CANVAS = {
  ArrowLeft: () => view.rotate(-0.1, 0),
  ArrowRight: () => view.rotate(0.1, 0),
  ArrowUp: () => view.rotate(0, -0.1),
  ArrowDown: () => view.rotate(0, 0.1),
  "+": () => view.enlarge(1.15),
  "=": () => view.enlarge(1.15),
  "-": () => view.enlarge(1 / 1.15),
  0: () => view.reset(),
};
const ANYWHERE = {
  ",": () => stepBy(-1),
  ".": () => stepBy(1),
};

function listenToKeys() {
  document.addEventListener("keydown", (e) => {
    if (e.ctrlKey || e.metaKey || e.altKey) return;
    const onCanvas = e.target === view.canvas;
    const writes = e.target.tagName === "SELECT"; // typing there searches the list
    let act = writes ? undefined : ANYWHERE[e.key];
    if (onCanvas && ON_CANVAS[e.key]) act = () => (ON_CANVAS[e.key](), moved());
    // A control that has the focus uses the space bar itself.
    if (e.key === " " && (onCanvas || e.target === document.body)) {
      act = () => (playing ? pause() : play());
    }
    if (!act) return;
    e.preventDefault();
    act();
  });
}

function start() {
  document.title = `Flows of ${page.title}`;
  element("run").textContent =
    `${page.title}: ${page.width} × ${page.height} cells, ${page.steps} steps`;
  element("sentence").replaceChildren(
    ...page.sentences.map((sentence) => new Option(sentence.text))
  );
  element("step").max = page.steps;
  listen();
  listenToPointers();
  listenToPicks(view, scene, pick, request);
  listenToKeys();
  choose(0);
  describeColors();
}

start();
