"use strict";
// The cube: numbers of a sentence, the view, and drawing both on a canvas.

// Most segments of trails in one picture: at rest, and while something moves.
const STILL_SEGMENTS = 60000;
const MOVING_SEGMENTS = 15000;
const COLORS = 33; // bins of energy, an odd number, so that zero has one of its own
const CAMERA = 8; // distance of the eye from the cube's center
const START = { yaw: -0.5, pitch: 0.38, zoom: 1 };

function integers(text) {
  const raw = atob(text);
  const bytes = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
  return new Uint16Array(bytes.buffer);
}

function numbers(stored) {
  return Float32Array.from(integers(stored.codes), (c) => stored.low + stored.step * c);
}

// Everything of one sentence as typed arrays. position[(t * flows + i) * 3 + axis].
function unpack(stored) {
  return {
    text: stored.text,
    result: stored.result,
    statistics: stored.statistics,
    flows: stored.flows,
    position: numbers(stored.position),
    energy: numbers(stored.energy),
    born: integers(stored.born),
    arrived: integers(stored.arrived),
    far: integers(stored.far),
    start: integers(stored.start),
    end: integers(stored.end),
    input: numbers(stored.input),
    output: numbers(stored.output),
    parent: Int32Array.from(integers(stored.parent), (number) => number - 1),
    worth: numbers(stored.worth),
    field: stored.field && { edge: stored.field.edge, views: numbers(stored.field.views) },
  };
}

// How many flows travel, rest on each face, and are not born yet, at a whole step.
function census(sentence, step) {
  const count = { travelling: 0, near: 0, far: 0, unborn: 0 };
  for (let i = 0; i < sentence.flows; i++) {
    if (sentence.born[i] > step) count.unborn++;
    else if (sentence.arrived[i] > step) count.travelling++;
    else if (sentence.far[i]) count.far++;
    else count.near++;
  }
  return count;
}

// Flows that rest on each cell of a face at a whole step, and their mean energy.
function cells(page, sentence, step, far) {
  const { width, height } = page;
  const count = new Uint16Array(width * height);
  const energy = new Float32Array(width * height);
  const cell = (value, n) =>
    Math.min(n - 1, Math.max(0, Math.round(((value + 1) / 2) * (n - 1))));
  for (let i = 0; i < sentence.flows; i++) {
    if (sentence.arrived[i] > step || Boolean(sentence.far[i]) !== far) continue;
    const at = step * sentence.flows + i;
    const column = cell(sentence.position[3 * at], width);
    const place = cell(sentence.position[3 * at + 1], height) * width + column;
    count[place]++;
    energy[place] += sentence.energy[at];
  }
  for (let place = 0; place < count.length; place++) {
    if (count[place]) energy[place] /= count[place];
  }
  return { count, energy };
}

function mix(first, second, share) {
  return first.map((value, i) => Math.round(value + (second[i] - value) * share));
}

function parseColor(text) {
  return [1, 3, 5].map((i) => parseInt(text.trim().slice(i, i + 2), 16));
}

// The page's colors as the style sheet has them now, light or dark.
function readPalette() {
  const style = getComputedStyle(document.documentElement);
  const read = (name) => parseColor(style.getPropertyValue(`--${name}`));
  const palette = {};
  const steps = Array.from({ length: COLORS }, (_, i) => i / (COLORS - 1));
  for (const name of ["paper", "ink", "quiet", "edge", "low", "middle", "high", "crowd", "line"]) {
    palette[name] = read(name);
  }
  palette.energies = steps.map((step) => {
    const share = 2 * step - 1;
    return mix(palette.middle, share < 0 ? palette.low : palette.high, Math.abs(share));
  });
  palette.worths = steps.map((step) => mix(palette.line, palette.crowd, step));
  return palette;
}

const css = (color, alpha = 1) => `rgb(${color.join(" ")} / ${alpha})`;

function bin(energy, limit) {
  const share = Math.min(1, Math.max(-1, energy / limit));
  return Math.round(((share + 1) / 2) * (COLORS - 1));
}

class CubeView {
  constructor(canvas, page) {
    this.canvas = canvas;
    this.page = page;
    this.context = canvas.getContext("2d");
    this.point = new Float64Array(3); // x and y on the canvas, depth towards the eye
    this.reset();
  }

  reset() {
    Object.assign(this, START);
  }

  rotate(right, up) {
    this.yaw += right;
    this.pitch = Math.min(1.5, Math.max(-1.5, this.pitch + up));
  }

  enlarge(factor) {
    this.zoom = Math.min(6, Math.max(0.4, this.zoom * factor));
  }

  // At the start z runs to the right, y up, and x into the picture.
  project(x, y, z) {
    const right = z * this.cosYaw - x * this.sinYaw;
    const ahead = -z * this.sinYaw - x * this.cosYaw;
    const up = y * this.cosPitch - ahead * this.sinPitch;
    const depth = y * this.sinPitch + ahead * this.cosPitch;
    const size = (this.unit * CAMERA) / (CAMERA - depth);
    this.point[0] = this.center[0] + right * size;
    this.point[1] = this.center[1] - up * size;
    this.point[2] = depth;
    return this.point;
  }

  // sentence, time (a real number of steps), trails, faces, moving. Says how many flows
  // stand behind each trail that is drawn.
  draw(scene) {
    this.palette = scene.palette;
    this.fit();
    const { context, page } = this;
    context.clearRect(0, 0, this.width, this.height);
    this.edges(false);
    const fronts = [-1, 1].filter((face) => this.isFront(face));
    for (const face of [-1, 1]) {
      if (!fronts.includes(face)) this.face(scene, face, 0.8);
    }
    this.outline(page.start, css(this.palette.edge, 0.8), [5, 4]);
    const every = scene.trails ? this.trails(scene) : 1;
    this.dots(scene);
    if (scene.births) drawBirths(this, scene);
    for (const face of fronts) this.face(scene, face, 0.45);
    this.edges(true);
    this.labels();
    return every;
  }

  fit() {
    const { canvas, context } = this;
    const ratio = window.devicePixelRatio || 1;
    this.width = canvas.clientWidth;
    this.height = canvas.clientHeight;
    const pixels = [Math.round(this.width * ratio), Math.round(this.height * ratio)];
    if (canvas.width !== pixels[0]) canvas.width = pixels[0];
    if (canvas.height !== pixels[1]) canvas.height = pixels[1];
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    this.unit = Math.min(this.width / 3.7, this.height / 3.75) * this.zoom;
    this.center = [this.width / 2, this.height / 2];
    [this.cosYaw, this.sinYaw] = [Math.cos(this.yaw), Math.sin(this.yaw)];
    [this.cosPitch, this.sinPitch] = [Math.cos(this.pitch), Math.sin(this.pitch)];
  }

  // Whether the eye, at z = eye along that axis, sees the outer side of a face.
  isFront(face) {
    const eye = -CAMERA * this.sinYaw * this.cosPitch;
    return face * eye > 1;
  }

  // The twelve edges; those that meet at the corner farthest from the eye are behind.
  edges(front) {
    const { context } = this;
    const signs = [-1, 1];
    const corners = signs.flatMap((x) =>
      signs.flatMap((y) => signs.map((z) => [x, y, z])));
    const depth = (c) => this.project(...c)[2];
    const last = corners.reduce((a, b) => (depth(b) < depth(a) ? b : a));
    context.strokeStyle = css(this.palette.edge, front ? 0.95 : 0.5);
    context.lineWidth = 1;
    context.beginPath();
    for (const corner of corners) {
      for (let axis = 0; axis < 3; axis++) {
        if (corner[axis] > 0) continue;
        const other = corner.map((v, i) => (i === axis ? 1 : v));
        const behind = corner.every((v, i) => i === axis || v === last[i]);
        if (behind === front) continue;
        this.line(context.moveTo, corner);
        this.line(context.lineTo, other);
      }
    }
    context.stroke();
  }

  line(command, corner) {
    const [x, y] = this.project(...corner);
    command.call(this.context, x, y);
  }

  polygon(corners) {
    const { context } = this;
    context.beginPath();
    corners.forEach((c, i) => this.line(i ? context.lineTo : context.moveTo, c));
    context.closePath();
  }

  outline(z, color, dash) {
    const { context } = this;
    context.strokeStyle = color;
    context.lineWidth = 1;
    context.setLineDash(dash);
    this.polygon([[-1, -1, z], [1, -1, z], [1, 1, z], [-1, 1, z]]);
    context.stroke();
    context.setLineDash([]);
  }

  // Cells on which flows have arrived, in the color of their mean energy.
  face(scene, face, alpha) {
    const { context, page, palette } = this;
    if (!scene.faces || scene.color !== "energy" || (face < 0 && !page.dual)) return;
    const { width, height, limit } = page;
    const found = cells(page, scene.sentence, Math.floor(scene.time), face > 0);
    const low = (i, n) => Math.max(-1, (2 * (i - 0.5)) / (n - 1) - 1);
    const high = (i, n) => Math.min(1, (2 * (i + 0.5)) / (n - 1) - 1);
    for (let place = 0; place < found.count.length; place++) {
      if (!found.count[place]) continue;
      const column = place % width;
      const row = (place - column) / width;
      const [left, right] = [low(column, width), high(column, width)];
      const [bottom, top] = [low(row, height), high(row, height)];
      this.polygon([[left, bottom, face], [right, bottom, face],
        [right, top, face], [left, top, face]]);
      context.fillStyle = css(palette.energies[bin(found.energy[place], limit)], alpha);
      context.fill();
    }
  }

  // Ways travelled so far, all segments of one color in one stroke.
  trails(scene) {
    const { context, page } = this;
    const { sentence, time } = scene;
    const { flows, position } = sentence;
    const shades = shadesOf(page, scene);
    const budget = scene.moving ? MOVING_SEGMENTS : STILL_SEGMENTS;
    const every = Math.max(1, Math.ceil((flows * Math.ceil(time)) / budget));
    const paths = Array.from({ length: COLORS }, () => []);
    for (let i = 0; i < flows; i += every) {
      const end = Math.min(time, sentence.arrived[i]);
      for (let t = sentence.born[i]; t < end; t++) {
        paths[shades.of(t + 1, i)].push(t, i);
      }
    }
    const shown = Math.ceil(flows / every);
    const alpha = Math.min(0.55, Math.max(0.12, 11 / Math.sqrt(shown)));
    context.lineWidth = 1;
    paths.forEach((path, color) => {
      if (!path.length) return;
      context.strokeStyle = css(shades.colors[color], alpha);
      context.beginPath();
      for (let k = 0; k < path.length; k += 2) {
        const [t, i] = [path[k], path[k + 1]];
        const from = 3 * (t * flows + i);
        const p = this.project(position[from], position[from + 1], position[from + 2]);
        context.moveTo(p[0], p[1]);
        this.place(sentence, i, Math.min(time, t + 1));
        context.lineTo(p[0], p[1]);
      }
      context.stroke();
    });
    return every;
  }

  // Project flow i at a real time, on the straight line between two steps.
  place(sentence, i, time) {
    const { flows, position } = sentence;
    const step = Math.min(Math.floor(time), this.page.steps);
    const share = step === this.page.steps ? 0 : time - step;
    const a = 3 * (step * flows + i);
    const b = share ? a + 3 * flows : a;
    const at = (axis) => position[a + axis] + share * (position[b + axis] - position[a + axis]);
    return this.project(at(0), at(1), at(2));
  }

  // One dot a flow, the farthest first; small ones have arrived.
  dots(scene) {
    const { context, page } = this;
    const { sentence, time } = scene;
    const shades = shadesOf(page, scene);
    const step = Math.min(Math.floor(time), page.steps);
    const drawn = [];
    for (let i = 0; i < sentence.flows; i++) {
      if (sentence.born[i] > step) continue;
      const [x, y, depth] = this.place(sentence, i, time);
      drawn.push({ x, y, depth, i });
    }
    drawn.sort((a, b) => a.depth - b.depth);
    const scale = Math.min(1, Math.max(0.35, 28 / Math.sqrt(drawn.length + 1))) * this.unit / 150;
    for (const { x, y, depth, i } of drawn) {
      const rests = sentence.arrived[i] <= time;
      const near = CAMERA / (CAMERA - depth);
      const radius = Math.max(0.7, (rests ? 1.5 : 2.8) * near * scale);
      context.fillStyle = css(shades.colors[shades.of(step, i)], rests ? 0.8 : 1);
      context.beginPath();
      context.arc(x, y, radius, 0, 7);
      context.fill();
    }
  }

  pointer(from, to) {
    const { context } = this;
    context.strokeStyle = css(this.palette.edge, 0.7);
    context.lineWidth = 1;
    context.beginPath();
    this.line(context.moveTo, from);
    this.line(context.lineTo, to);
    context.stroke();
  }

  labels() {
    const { context, page, palette } = this;
    context.font = "13px system-ui, 'DejaVu Sans', sans-serif";
    context.lineJoin = "round";
    context.textAlign = "center";
    context.textBaseline = "middle";
    const write = (text, corner, color) => {
      const [x, y] = this.project(...corner);
      context.lineWidth = 4;
      context.strokeStyle = css(palette.paper, 0.85);
      context.strokeText(text, x, y);
      context.fillStyle = css(color);
      context.fillText(text, x, y);
    };
    const floor = this.pitch < 0 ? 1.16 : -1.16;
    const top = floor < 0 ? 1.52 : -1.52;
    // Edges of the floor that are nearest the eye, so that nothing stands before them.
    const side = this.project(1, 0, 0)[2] > this.project(-1, 0, 0)[2] ? 1.16 : -1.16;
    const end = this.project(0, 0, 1)[2] > this.project(0, 0, -1)[2] ? 1.16 : -1.16;
    const planes = [
      ["near face, z = −1" + (page.dual ? "" : " (closed)"), -1, palette.ink],
      ["far face, z = +1", 1, palette.ink],
      ["start", page.start, palette.quiet],
    ];
    for (const [text, z, color] of planes) {
      this.pointer([0, top * 0.93, z], [0, Math.sign(top), z]);
      write(text, [0, top, z], color);
    }
    const axes = { x: [0, floor, end], y: [-side, 0, end], z: [side, floor, 0] };
    Object.entries(axes).forEach(([name, middle], axis) => {
      for (const [text, place] of [[name, 0], ["−1", -0.94], ["+1", 0.94]]) {
        write(text, middle.map((v, i) => (i === axis ? place : v)), palette.quiet);
      }
    });
  }
}
