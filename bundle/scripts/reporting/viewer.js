// The page's behaviour: one cross-hair in mm, shown by every panel and on both X-rays.

const root = document.documentElement;
const view = JSON.parse(document.getElementById("view").textContent);
const panels = [];
let niivue;
let position;

const PLANES_IN_A_ROW = window.matchMedia("(min-width: 640px)");
const DIRECTIONS = [["right", "left"], ["anterior", "posterior"], ["superior", "inferior"]];

function element(kind, content = {}, ...children) {
  const made = Object.assign(document.createElement(kind), content);
  made.append(...children);
  return made;
}

function tell(state, message) {
  document.getElementById("message").textContent = message;
  root.dataset.state = state;
}

function bytes(base64) {
  const text = atob(base64);
  const content = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) content[i] = text.charCodeAt(i);
  return content;
}

async function loadNiivue() {
  const stream = new Blob([bytes(view.niivue)]).stream().pipeThrough(new DecompressionStream("gzip"));
  const module = new Blob([await new Response(stream).arrayBuffer()], { type: "text/javascript" });
  const address = URL.createObjectURL(module);
  try {
    return await import(address);
  } finally {
    URL.revokeObjectURL(address);
  }
}

function chosenWindow() {
  const { level, width } = document.querySelector("input[name=window]:checked").dataset;
  return [Number(level) - Number(width) / 2, Number(level) + Number(width) / 2];
}

// One row or grid of three planes, with a choice of the volume that it shows.
class Panel {
  constructor(index) {
    this.figure = document.getElementById("panel").content.firstElementChild.cloneNode(true);
    this.canvas = this.figure.querySelector("canvas");
    this.select = this.figure.querySelector("select");
    this.select.append(...view.volumes.map(({ name }, i) => new Option(name, i, i === index, i === index)));
    this.select.disabled = view.volumes.length === 1;
    this.select.addEventListener("change", () => this.show());
    this.canvas.parentElement.addEventListener("wheel", (event) => this.scrollPage(event), { capture: true });
    document.getElementById("panels").append(this.figure);
    this.viewer = new niivue.Niivue({
      backColor: [0, 0, 0, 1],
      clipPlaneHotKey: "",
      crosshairColor: [1, 0.75, 0.1, 0.75],
      crosshairGap: 8,
      crosshairWidth: 1,
      crosshairWidthUnit: "mm",
      cycleClipPlaneHotKey: "",
      dragAndDropEnabled: false,
      dragMode: niivue.DRAG_MODE.none,
      fontColor: [1, 0.75, 0.1, 1],
      fontMinPx: 18,
      isNearestInterpolation: true,
      isRadiologicalConvention: true,
      loadingText: "",
      logLevel: "error",
      multiplanarPadPixels: 4,
      multiplanarShowRender: niivue.SHOW_RENDER.NEVER,
      sagittalNoseLeft: true,
      sliceType: niivue.SLICE_TYPE.MULTIPLANAR,
      viewModeHotKey: "",
    });
    this.viewer.onLocationChange = ({ mm }) => moveTo(Array.from(mm).slice(0, 3), this);
  }

  // NiiVue would keep the wheel from the page; it gets it once the planes have been clicked.
  scrollPage(event) {
    if (document.activeElement !== this.canvas) event.stopPropagation();
  }

  async open() {
    await this.viewer.attachToCanvas(this.canvas, false);
    this.layOut();
    await this.show();
  }

  layOut() {
    const { ROW, GRID } = niivue.MULTIPLANAR_TYPE;
    this.viewer.setMultiplanarLayout(PLANES_IN_A_ROW.matches ? ROW : GRID);
  }

  async show() {
    const chosen = this.select.value;
    const { name, file } = view.volumes[chosen];
    const volume = await niivue.NVImage.new(bytes(file).buffer, `${chosen}.nii.gz`, "gray", 1, null, ...chosenWindow());
    if (this.select.value !== chosen) return;
    for (const earlier of [...this.viewer.volumes]) this.viewer.removeVolume(earlier);
    this.viewer.addVolume(volume);
    const [, ...size] = volume.dimsRAS;
    const side = volume.pixDimsRAS[1].toFixed(2);
    this.figure.querySelector(".size").textContent = `${size.join(" × ")} voxels of ${side} mm`;
    this.canvas.setAttribute("aria-label", `${name} in three planes`);
    this.setWindow();
    if (position) this.mark();
  }

  setWindow() {
    const [low, high] = chosenWindow();
    for (const volume of this.viewer.volumes) Object.assign(volume, { cal_min: low, cal_max: high });
    this.viewer.updateGLVolume();
    this.figure.dataset.window = `${this.viewer.volumes[0].cal_min} ${this.viewer.volumes[0].cal_max}`;
  }

  mark() {
    this.viewer.scene.crosshairPos = this.viewer.mm2frac(position);
    this.viewer.drawScene();
    this.readOut();
  }

  readOut() {
    const volume = this.viewer.volumes[0];
    const value = volume.getValue(...volume.mm2vox(position));
    this.figure.querySelector(".value").textContent = `${Math.round(value)} HU`;
  }
}

function moveTo(mm, source) {
  position = mm;
  for (const panel of panels) panel === source ? panel.readOut() : panel.mark();
  const directions = mm.map((along, axis) => DIRECTIONS[axis][along < 0 ? 1 : 0]);
  const distances = mm.map((along) => Math.abs(along).toFixed(1));
  document.getElementById("place").textContent =
    `${distances.map((distance, axis) => `${directions[axis][0].toUpperCase()} ${distance}`).join(", ")} mm`;
  for (const slider of document.querySelectorAll("#position input")) {
    const { axis, sign } = slider.dataset;
    slider.value = mm[axis] * sign;
    slider.setAttribute("aria-valuetext", `${distances[axis]} mm ${directions[axis]}`);
  }
  view.xrays.forEach(({ projection }, i) => {
    const [u, v, w] = projection.map((row) => row[0] * mm[0] + row[1] * mm[1] + row[2] * mm[2] + row[3]);
    const { style } = document.querySelectorAll(".xray .lines")[i];
    style.setProperty("--across", `${(100 * u) / w}%`);
    style.setProperty("--down", `${(100 * v) / w}%`);
  });
}

function showXrays() {
  for (const { name, edges, image: src } of view.xrays) {
    const [left, right] = edges.map((letter) => element("span", { className: "edge", textContent: letter }));
    const image = element("img", { src, alt: `${name}; ${edges[0]} is on the left` });
    const frame = element("div", { className: "frame" }, image, element("div", { className: "lines" }), left, right);
    const caption = element("figcaption", { textContent: name });
    document.getElementById("xrays").append(element("figure", { className: "xray" }, caption, frame));
  }
}

function showFigures() {
  const section = document.getElementById("figures");
  for (const { title, image: src } of view.figures) {
    section.append(element("h2", { textContent: title }), element("img", { src, alt: title }));
    section.hidden = false;
  }
}

function tableOf(rows) {
  const cells = (kind, texts) => texts.map((textContent) => element(kind, { textContent }));
  const head = element("thead", {}, element("tr", {}, ...cells("th", Object.keys(rows[0]))));
  const body = rows.map((row) => element("tr", {}, ...cells("td", Object.values(row))));
  return element("table", {}, head, element("tbody", {}, ...body));
}

function showMeasurements() {
  const section = document.getElementById("measurements");
  const { rows, notes } = view.measurements;
  if (!rows.length) return;
  section.append(tableOf(rows), ...notes.map((textContent) => element("p", { className: "hint", textContent })));
  section.hidden = false;
}

function showScores() {
  const section = document.getElementById("scores");
  if (!view.scores.length) return;
  section.prepend(tableOf(view.scores));
  section.hidden = false;
}

// The sliders stop at the first volume's voxels, and start in the middle.
function prepareSliders() {
  const { viewer } = panels[0];
  const [low, high] = viewer.sceneExtentsMinMax();
  const start = [];
  for (const slider of document.querySelectorAll("#position input")) {
    const { axis, sign } = slider.dataset;
    const step = viewer.volumes[0].pixDimsRAS[Number(axis) + 1];
    const ends = [low[axis] * sign, high[axis] * sign].sort((a, b) => a - b);
    Object.assign(slider, { step, min: ends[0] + step / 2, max: ends[1] - step / 2, value: (ends[0] + ends[1]) / 2 });
    start[axis] = slider.value * sign;
    slider.addEventListener("input", () => moveTo(position.map((mm, i) => (i == axis ? slider.value * sign : mm))));
  }
  return start;
}

async function showVolumes() {
  document.getElementById("volumes").hidden = false;
  niivue = await loadNiivue();
  for (const index of new Set([0, view.volumes.length - 1])) {
    panels.push(new Panel(index));
    await panels.at(-1).open();
  }
  moveTo(prepareSliders());
  for (const choice of document.querySelectorAll("input[name=window]")) {
    choice.addEventListener("change", () => panels.forEach((panel) => panel.setWindow()));
  }
  PLANES_IN_A_ROW.addEventListener("change", () => panels.forEach((panel) => panel.layOut()));
}

document.title = view.title;
for (const part of ["title", "notice", "note"]) document.getElementById(part).textContent = view[part];
showXrays();
showMeasurements();
showScores();
showFigures();
if (!document.createElement("canvas").getContext("webgl2")) {
  tell(
    "no-webgl2",
    "The volumes cannot be shown: this browser has no WebGL2. Switch hardware acceleration on, or open the page in a " +
      "current Firefox, Chrome, Edge or Safari.",
  );
} else {
  showVolumes().then(
    () => tell("ready", ""),
    (error) => tell("failed", `The volumes cannot be shown: ${error.message}`),
  );
}
