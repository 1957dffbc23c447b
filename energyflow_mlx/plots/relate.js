// How flows and sentences relate: parents and children, the worth of regions, and what
// one sentence has that another has not.

function childrenOf(sentence, i) {
  const found = [];
  sentence.parent.forEach((parent, child) => {
    if (parent === i) found.push(child);
  });
  return found;
}

// The launched flow that a flow descends from: itself, for all but children.
function ancestor(sentence, i) {
  while (sentence.parent[i] >= 0) i = sentence.parent[i];
  return i;
}

// Colors of flows, and which of them flow i has at a step.
function shadesOf(page, { sentence, color, palette }) {
  const { flows, energy, worth, start } = sentence;
  if (color === "energy") {
    const of = (t, i) => bin(energy[t * flows + i], page.limit);
    return { colors: palette.energies, of };
  }
  const top = greatest(worth);
  const of = (t, i) => {
    const share = worth[start[ancestor(sentence, i)]] / top;
    return Math.round(Math.max(0, share) * (COLORS - 1));
  };
  return { colors: palette.worths, of };
}

// A ring where each child was born, and a line from it to its parent.
function drawBirths(view, { sentence, time, palette }) {
  const { context } = view;
  context.strokeStyle = css(palette.ink, 0.75);
  context.lineWidth = 1.2;
  for (let i = 0; i < sentence.flows; i++) {
    const parent = sentence.parent[i];
    if (parent < 0 || sentence.born[i] > time) continue;
    const [x, y] = view.place(sentence, i, sentence.born[i]);
    context.beginPath();
    context.arc(x, y, 4, 0, 7);
    context.stroke();
    context.setLineDash([3, 3]);
    context.beginPath();
    context.moveTo(...view.place(sentence, i, time));
    context.lineTo(...view.place(sentence, parent, time));
    context.stroke();
    context.setLineDash([]);
  }
}

const signedNumber = (value) => value.toPrecision(2).replace("-", "−");

function describeEnergies(sentence, step) {
  const own = [];
  for (let i = 0; i < sentence.flows; i++) {
    if (sentence.born[i] <= step) own.push(sentence.energy[step * sentence.flows + i]);
  }
  const mean = own.reduce((sum, e) => sum + e, 0) / own.length;
  const size = own.reduce((sum, e) => sum + Math.abs(e), 0) / own.length;
  return `Energies: mean ${signedNumber(mean)}, mean size ${signedNumber(size)}.`;
}

function describeColors() {
  const byEnergy = scene.color === "energy";
  const limit = byEnergy ? page.limit : greatest(scene.sentence.worth);
  const shown = limit.toPrecision(2);
  element("measure").textContent = byEnergy ? "energy" : "loss of cosine";
  element("least").textContent = byEnergy ? `≤ −${shown}` : "0";
  element("most").textContent = byEnergy ? `≥ +${shown}` : shown;
  element("scale").textContent = byEnergy ? "0" : "\u00a0";
  element("scale").classList.toggle("worth", !byEnergy);
}

function paintWorth(sentence) {
  const top = greatest(sentence.worth);
  const { paper, crowd } = scene.palette;
  paint(element("worth"), (place) =>
    mix(paper, crowd, Math.max(0, sentence.worth[place] / top)));
  element("worth-text").textContent = `0 to ${top.toPrecision(2)}`;
  describeColors();
}

// Sentences that the chosen one can be compared with; the nearest in words is first.
function offerOthers(index) {
  const own = page.sentences[index].text;
  const others = page.sentences
    .map(({ text }, number) => ({ text, number, apart: wordsApart(own, text).length }))
    .filter(({ number }) => number !== index)
    .sort((a, b) => a.apart - b.apart);
  element("comparison").hidden = !others.length;
  element("other").replaceChildren(
    ...others.map(({ text, number }) => new Option(text, number)));
}

const wordsOf = (text) => text.split(/\s+/);

// Words of either text that the other has not.
function wordsApart(one, other) {
  const lacks = (a, b) => wordsOf(a).filter((word) => !wordsOf(b).includes(word));
  return [...lacks(one, other), ...lacks(other, one)];
}

// Flows on each cell of a face, less those of another sentence.
function arrivalsChange(own, other, step, isFar) {
  const [a, b] = [own, other].map((s) => cells(page, s, step, isFar).count);
  return Float32Array.from(a, (count, place) => count - b[place]);
}

function paintChange(step) {
  if (element("comparison").hidden) return;
  const [own, other] = [scene.sentence, sentenceAt(Number(element("other").value))];
  const apart = wordsApart(own.text, other.text);
  element("words").textContent = `Words that only one has: ${apart.join(", ") || "none"}.`;
  for (const [name, isFar] of [["near", false], ["far", true]]) {
    const change = arrivalsChange(own, other, step, isFar);
    paintDifference(`${name}-change`, `${name} face`, change);
  }
  const energies = own.output.map((energy, i) => energy - other.output[i]);
  paintDifference("output-change", "energies", energies);
}

// Both views of the medium, all steps of a sentence on one scale.
function paintMedium(sentence, step) {
  const { field } = sentence;
  element("medium").hidden = !field;
  if (!field) return;
  const area = field.edge ** 2;
  const limit = greatest(field.views);
  ["front", "above"].forEach((name, view) => {
    const from = (2 * step + view) * area;
    const part = field.views.slice(from, from + area);
    paint(element(name), signedColor(part, limit), field.edge, field.edge);
    const axes = view ? "x and z" : "x and y";
    element(`${name}-text`).textContent = `${axes}: ±${limit.toPrecision(2)}`;
  });
}

function signedColor(values, limit) {
  const { paper, low, high } = scene.palette;
  return (place) => {
    const share = values[place] / limit;
    return mix(paper, share < 0 ? low : high, Math.abs(share));
  };
}

function paintDifference(name, title, difference) {
  const limit = greatest(difference);
  paint(element(name), signedColor(difference, limit));
  const most = limit > 1e-5 ? `±${limit.toPrecision(2)}` : "the same";
  element(`${name}-text`).textContent = `${title}: ${most}`;
}
