// The page of `ich view`: NiiVue draws, this connects it with the controls and the keyboard.
"use strict";

const $ = id => document.getElementById(id);
const VIEWS = [
  ["All", "MULTIPLANAR"], ["Axial", "AXIAL"], ["Coronal", "CORONAL"], ["Sagittal", "SAGITTAL"], ["3D", "RENDER"],
];
const PLANES = ["sagittal", "coronal", "axial"];
// Of each view: the axes that the arrow keys move along, and the one across; x to the patient's left or right, y, z.
const AXES = {MULTIPLANAR: [0, 1, 2], AXIAL: [0, 1, 2], CORONAL: [0, 2, 1], SAGITTAL: [1, 2, 0], RENDER: [0, 1, 2]};
const DIRECTIONS = [["R", "L"], ["A", "P"], ["S", "I"]];

let nv, scene, view = "MULTIPLANAR", current = -1;
const places = [];

function add(parent, tag, properties = {}) {
  return parent.appendChild(Object.assign(document.createElement(tag), properties));
}

function choices(parent, name, texts, chosen) {
  texts.forEach((text, index) => {
    const label = add(parent, "label");
    const input = add(label, "input", {type: "radio", name, value: index, checked: index === 0});
    add(label, "span", {textContent: text});
    input.addEventListener("change", () => chosen(index));
  });
}

function choose(name, index) {
  for (const input of document.getElementsByName(name)) input.checked = Number(input.value) === index;
}

function setWindow(level, width) {
  const scan = nv.volumes[0];
  scan.cal_min = level - width / 2;
  scan.cal_max = level + width / 2;
  nv.updateGLVolume();
  showWindow();
}

function showWindow() {
  const {cal_min, cal_max} = nv.volumes[0];
  const level = Math.round((cal_min + cal_max) / 2), width = Math.round(cal_max - cal_min);
  $("level").value = level;
  $("width").value = width;
  choose("window", scene.windows.findIndex(one => one.level === level && one.width === width));
}

function setView(index) {
  view = VIEWS[index][1];
  nv.setSliceType(niivue.SLICE_TYPE[view]);
  choose("view", index);
  cutOpen();
  showPlace();
}

// The render shows the head's surface, so what lies within is seen only where it is cut: above the axial slice.
function cutOpen() {
  const [, , z] = nv.scene.crosshairPos;
  nv.setClipPlane($("cut").checked ? [0.5 - z, 0, 90] : [2, 0, 0]);
}

function setOpacity() {
  const percent = Number($("opacity").value);
  $("opacity-value").textContent = `${percent} %`;
  scene.masks.forEach((mask, index) => {
    const volume = nv.volumes[index + 1];
    // A line of a voxel's width is seen less than an area.
    const opacity = Math.min(1, percent / ($("outline").checked ? 50 : 100));
    volume.opacity = $(`mask-${index}`).checked ? opacity : 0;
    if ($("outline").checked) mask.edge ??= edge(mask.whole, volume.hdr.dims.slice(1, 4));
    volume.img = $("outline").checked ? mask.edge : mask.whole;
  });
  nv.updateGLVolume();
}

// Values of masks, of which the colour map shows only the second.
const WITHIN = 1, DRAWN = 2;

// A mask of which only those voxels are drawn that touch, within their slice, one that is not of it.
function edge(whole, shape) {
  const strides = [1, shape[0], shape[0] * shape[1]];
  const [a, b] = [0, 1, 2].filter(axis => axis !== scene.slice_axis);
  return whole.map((value, place) => {
    const outside = axis => {
      const at = Math.floor(place / strides[axis]) % shape[axis];
      return at === 0 || at === shape[axis] - 1 || !whole[place - strides[axis]] || !whole[place + strides[axis]];
    };
    return value && !outside(a) && !outside(b) ? WITHIN : value;
  });
}

function goTo(millimetres) {
  nv.scene.crosshairPos = nv.mm2frac(millimetres, 0, true); // true: of an oblique scan, too, those of its affine
  nv.createOnLocationChange();
  nv.drawScene();
}

function goToComponent(index) {
  current = index;
  places.forEach((place, other) => place.button.setAttribute("aria-current", String(other === index)));
  goTo(places[index].at);
}

function move(axis, step) {
  const along = [0, 0, 0];
  along[axis] = step;
  nv.moveCrosshairInVox(...along);
}

function showPlace() {
  const across = AXES[view][2];
  const voxel = nv.frac2vox(nv.scene.crosshairPos), count = nv.volumes[0].dimsRAS[across + 1];
  $("slice").max = count;
  $("slice").value = voxel[across] + 1;
  const plane = PLANES[across];
  $("slice-name").textContent = `${plane[0].toUpperCase()}${plane.slice(1)} slice ${voxel[across] + 1} of ${count}`;
  const mm = nv.frac2mm(nv.scene.crosshairPos, 0, true);
  const at = DIRECTIONS.map((ends, axis) => `${Math.abs(mm[axis]).toFixed(1)} ${ends[mm[axis] >= 0 ? 0 : 1]}`);
  const hu = nv.volumes[0].getValue(...voxel);
  const within = scene.masks.filter((_, index) => nv.volumes[index + 1].getValue(...voxel) > 0).map(mask => mask.name);
  $("where").textContent = `${at.join(", ")} mm: ${Math.round(hu)} HU${within.length ? `, in ${within.join(", ")}` : ""}`;
}

function listMasks() {
  $("none").hidden = scene.masks.length > 0;
  $("some").hidden = scene.masks.length === 0;
  scene.masks.forEach((mask, index) => {
    const item = add($("masks"), "li");
    const label = add(item, "label");
    add(label, "input", {type: "checkbox", id: `mask-${index}`, checked: true}).addEventListener("change", setOpacity);
    label.append(" ");
    add(label, "span", {className: "key"}).style.background = `rgb(${mask.colour})`;
    label.append(mask.name);
    add(item, "div", {className: "measure", textContent: mask.summary});
    const list = add(item, "ol");
    mask.components.forEach((one, number) => {
      const volume = one.volume_ml.toFixed(one.volume_ml < 0.1 ? 3 : 1);
      const text = `${number + 1}: ${volume} ml, ${one.diameter_mm.toFixed(0)} mm across`;
      const button = add(add(list, "li"), "button", {type: "button", textContent: text});
      button.setAttribute("aria-label", `Go to component ${text} of ${mask.name}`);
      const place = places.push({at: one.place_mm, button}) - 1;
      button.addEventListener("click", () => goToComponent(place));
    });
  });
}

function pressed(event) {
  event.stopPropagation(); // NiiVue has keys of its own, some of which no control would follow
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  const [right, up, across] = AXES[view];
  const mirrored = right === 0 && $("radiological").checked ? -1 : 1;
  const turn = (azimuth, elevation) =>
    nv.setRenderAzimuthElevation(nv.scene.renderAzimuth + azimuth, nv.scene.renderElevation + elevation);
  const solid = view === "RENDER";
  const keys = {
    ArrowLeft: () => solid ? turn(-5, 0) : move(right, -mirrored),
    ArrowRight: () => solid ? turn(5, 0) : move(right, mirrored),
    ArrowUp: () => solid ? turn(0, 5) : move(up, 1),
    ArrowDown: () => solid ? turn(0, -5) : move(up, -1),
    PageUp: () => move(across, 1),
    PageDown: () => move(across, -1),
    v: () => setView((VIEWS.findIndex(one => one[1] === view) + 1) % VIEWS.length),
    m: () => {
      const some = scene.masks.some((_, index) => $(`mask-${index}`).checked);
      scene.masks.forEach((_, index) => { $(`mask-${index}`).checked = !some; });
      setOpacity();
    },
    n: () => {
      const count = places.length;
      if (count) goToComponent(event.shiftKey ? (Math.max(current, 0) - 1 + count) % count : (current + 1) % count);
    },
  };
  scene.windows.forEach((one, index) => { keys[index + 1] = () => setWindow(one.level, one.width); });
  const action = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (action) {
    event.preventDefault();
    action();
  }
}

function connect() {
  $("picture").parentElement.addEventListener("keydown", pressed, true);
  for (const kind of ["keyup", "dblclick"]) {
    $("picture").parentElement.addEventListener(kind, event => event.stopPropagation(), true);
  }
  $("controls").addEventListener("submit", event => event.preventDefault());
  for (const id of ["level", "width"]) {
    $(id).addEventListener("change", () => {
      const level = Number($("level").value), width = Number($("width").value);
      if (width >= 1) setWindow(level, width); else showWindow();
    });
  }
  $("slice").addEventListener("input", () => {
    const across = AXES[view][2];
    move(across, Number($("slice").value) - 1 - nv.frac2vox(nv.scene.crosshairPos)[across]);
  });
  $("opacity").addEventListener("input", setOpacity);
  $("outline").addEventListener("change", setOpacity);
  $("cut").addEventListener("change", cutOpen);
  $("radiological").addEventListener("change", () => nv.setRadiologicalConvention($("radiological").checked));
  nv.onLocationChange = () => { showPlace(); cutOpen(); };
  nv.onIntensityChange = showWindow;
}

async function start() {
  scene = await (await fetch("scene.json")).json();
  document.title = `${scene.name} – ich view`;
  $("name").textContent = scene.name;
  $("size").textContent = scene.size;
  const {MULTIPLANAR_TYPE, SHOW_RENDER, DRAG_MODE} = niivue;
  nv = new niivue.Niivue({
    isRadiologicalConvention: true, showAllOrientationMarkers: true, show3Dcrosshair: true,
    multiplanarLayout: MULTIPLANAR_TYPE.GRID, multiplanarShowRender: SHOW_RENDER.ALWAYS, multiplanarPadPixels: 4,
    crosshairColor: [0.3, 0.8, 1, 0.7], crosshairGap: 8, fontColor: [1, 0.85, 0.4, 1], clipPlaneColor: [0, 0, 0, 0],
    dragMode: DRAG_MODE.windowing, dragAndDropEnabled: false, loadingText: "", logLevel: "error",
  });
  await nv.attachToCanvas($("picture"), true);
  const first = scene.windows[0];
  const files = [{
    url: scene.image, name: scene.image, colormap: "gray",
    cal_min: first.level - first.width / 2, cal_max: first.level + first.width / 2,
  }];
  scene.masks.forEach((mask, index) => {
    const [R, G, B] = mask.colour.map(value => [0, value]);
    nv.addColormap(`mask-${index}`, {R, G, B, A: [0, 255], I: [0, 255]});
    files.push({url: mask.file, name: mask.file, colormap: `mask-${index}`, opacity: 0, cal_min: WITHIN, cal_max: DRAWN});
  });
  await nv.loadVolumes(files);
  nv.setRenderAzimuthElevation(160, 30);
  choices($("windows"), "window", scene.windows.map(one => one.name), index =>
    setWindow(scene.windows[index].level, scene.windows[index].width));
  choices($("views"), "view", VIEWS.map(one => one[0]), setView);
  scene.masks.forEach((mask, index) => {
    mask.whole = nv.volumes[index + 1].img.map(value => value ? DRAWN : 0);
  });
  listMasks();
  connect();
  setOpacity();
  showWindow();
  if (places.length) goToComponent(0);
  showPlace();
  cutOpen();
  $("message").hidden = true;
  document.body.dataset.ready = "true";
}

start().catch(error => {
  const webgl = document.createElement("canvas").getContext("webgl2");
  $("message").textContent = webgl
    ? `Cannot be shown: ${error.message}`
    : "This browser has no WebGL 2, which the picture needs; ich view --png writes pictures without it.";
});
