// SPDX-FileCopyrightText: The yolox_trt authors
// SPDX-License-Identifier: Apache-2.0
//
// Draws what the server's WebSocket tells. Images (JPEG) and results come apart, each once; a picture
// is drawn when both of its stamp are there. An image without a result (it was dropped, or the machine is
// overloaded) is drawn after a moment, with the boxes of the nearest one dashed.
'use strict';

const HISTORY = 600;            // seconds that a chart shows
const PATIENCE = 2000;          // ms that an image waits for its result
const COLOURS = ['#ff3b30', '#34c759', '#0a84ff', '#ff9f0a', '#bf5af2', '#64d2ff', '#ffd60a', '#ff375f'];
const find = (id) => document.getElementById(id);
const cameras = new Map();      // name -> Camera
let samples = [];
let socket = null;

class Camera {
  constructor(name) {
    this.name = name;
    this.results = new Map();   // stamp -> boxes, the last few
    this.waiting = new Map();   // stamp -> image whose result has not come, in their order
    const card = find('camera').content.cloneNode(true).firstElementChild;
    this.card = card;
    this.canvas = card.querySelector('.picture canvas');
    this.chart = card.querySelector('.chart');
    card.dataset.camera = name;
    const title = card.querySelector('h3');
    title.append(name, Object.assign(document.createElement('span'), {className: 'device'}));
    card.querySelector('.picture').addEventListener('click', () => card.classList.toggle('large'));
    const details = card.querySelector('details');
    details.addEventListener('toggle', () => { if (details.open) send({camera: name}); });
    for (const input of card.querySelectorAll('input')) {
      input.addEventListener('input', () => showValue(input));
      input.addEventListener('change', () => {
        const value = input.type === 'checkbox' ? input.checked : Number(input.value);
        send({camera: name, name: input.dataset.name, value});
      });
    }
    find('cameras').append(card);
  }

  onResult(stamp, boxes) {
    this.results.set(stamp, boxes);
    if (this.results.size > 30) this.results.delete(this.results.keys().next().value);
    const image = this.waiting.get(stamp);
    if (image) this.draw(image, boxes);
  }

  onImage(image) {
    const boxes = this.results.get(image.stamp);
    if (boxes) { this.draw(image, boxes); return; }
    this.waiting.set(image.stamp, image);
    setTimeout(() => { if (this.waiting.has(image.stamp)) this.draw(image, this.nearest(image.stamp), true); }, PATIENCE);
  }

  // Boxes of the result next in time, at most a second away.
  nearest(stamp) {
    let best = null, least = 1000000000n;
    for (const [other, boxes] of this.results) {
      const distance = BigInt(other) - BigInt(stamp), away = distance < 0n ? -distance : distance;
      if (away < least) [best, least] = [boxes, away];
    }
    return best;
  }

  draw(image, boxes, dashed = false) {
    // What came before it will not be drawn any more.
    for (const [stamp, {bitmap}] of this.waiting) {
      this.waiting.delete(stamp);
      if (stamp === image.stamp) break;
      bitmap.close();
    }
    const {bitmap, width, height} = image, canvas = this.canvas;
    if (canvas.width !== bitmap.width || canvas.height !== bitmap.height) {
      [canvas.width, canvas.height] = [bitmap.width, bitmap.height];
      canvas.parentElement.style.aspectRatio = `${width} / ${height}`;
    }
    const pen = canvas.getContext('2d');
    pen.drawImage(bitmap, 0, 0);
    bitmap.close();
    const scale = canvas.width / width, text = Math.max(11, canvas.width / 45);
    pen.lineWidth = Math.max(1.5, canvas.width / 320);
    pen.font = `${text}px system-ui, sans-serif`;
    pen.textBaseline = 'top';
    pen.setLineDash(dashed ? [6, 6] : []);
    for (const box of boxes || []) {
      const colour = COLOURS[hash(box.id || box.name) % COLOURS.length];
      const [x, y, w, h] = [box.x, box.y, box.w, box.h].map((v) => v * scale);
      const label = `${box.name} ${box.id ? '#' + box.id + ' ' : ''}${box.score.toFixed(2)}`;
      pen.strokeStyle = pen.fillStyle = colour;
      pen.strokeRect(x, y, w, h);
      const top = Math.max(0, y - text * 1.25);
      pen.fillRect(x, top, pen.measureText(label).width + 6, text * 1.25);
      pen.fillStyle = '#000';
      pen.fillText(label, x + 3, top + 1);
    }
    this.card.querySelector('.wait').hidden = true;
    this.card.dataset.boxes = boxes ? boxes.length : '';
    this.card.dataset.drawn = Number(this.card.dataset.drawn || 0) + 1;
  }

  onSample(entry) {
    const part = (value, digits, unit) => value === null || value === undefined ? '–' : value.toFixed(digits) + unit;
    this.card.querySelector('.device').textContent = entry.device || '';
    const drops = Object.entries(entry.drops).map(([name, count]) => `${count} ${name}`);
    if (entry.lost) drops.push(`${entry.lost} lost before`);
    if (entry.late) drops.push(`${entry.late} late`);
    this.card.querySelector('.figures').textContent =
      `${part(entry.rate, 1, ' Hz')}, p50 ${part(entry.p50, 0, '')}, p99 ${part(entry.p99, 0, ' ms')}`
      + (drops.length ? `; dropped: ${drops.join(', ')}` : '');
    const problem = this.card.querySelector('.problem');
    problem.hidden = entry.level === 0;
    problem.textContent = entry.message;
    problem.className = `problem level${entry.level}`;
  }
}

function hash(text) {
  let value = 0;
  for (const letter of text) value = (value * 31 + letter.codePointAt(0)) >>> 0;
  return value;
}

function showValue(input) {
  const output = input.parentElement.querySelector('output');
  if (output) output.textContent = Number(input.value).toFixed(2);
}

function camera(name) {
  if (!cameras.has(name)) cameras.set(name, new Camera(name));
  return cameras.get(name);
}

function css(name) { return getComputedStyle(document.documentElement).getPropertyValue(name).trim(); }

// A canvas in device pixels, cleared; null while it is not shown.
function pen(canvas) {
  const scale = window.devicePixelRatio || 1, width = canvas.clientWidth, height = canvas.clientHeight;
  if (!width) return null;
  canvas.width = width * scale; canvas.height = height * scale;
  const context = canvas.getContext('2d');
  context.scale(scale, scale);
  return {context, width, height};
}

// A line through [seconds ago, value 0..1]; gaps where values are missing.
function line(area, points, colour) {
  const {context, width, height} = area;
  context.strokeStyle = colour; context.lineWidth = 1.3; context.beginPath();
  let down = false;
  for (const [ago, value] of points) {
    if (value === null || value === undefined) { down = false; continue; }
    const x = width * (1 - ago / HISTORY), y = height - 1 - Math.min(1, value) * (height - 3);
    down ? context.lineTo(x, y) : context.moveTo(x, y);
    down = true;
  }
  context.stroke();
}

function drawCharts() {
  if (!samples.length) return;
  const now = samples.at(-1).time;
  for (const [name, each] of cameras) {
    const area = pen(each.chart);
    if (!area) continue;
    const entries = samples.map((s) => [now - s.time, s.streams[name]]).filter(([, entry]) => entry);
    const top = (key) => Math.max(1, ...entries.map(([, entry]) => entry[key] || 0));
    const rate = top('rate') * 1.1, latency = top('p99') * 1.1;
    line(area, entries.map(([ago, e]) => [ago, e.rate === null ? null : e.rate / rate]), css('--good'));
    line(area, entries.map(([ago, e]) => [ago, e.p99 === null ? null : e.p99 / latency]), css('--warn'));
  }
  for (const lane of document.querySelectorAll('.lane')) {
    const area = pen(lane.querySelector('canvas')), name = lane.dataset.device;
    if (!area) continue;
    let before = null;          // time of the sample before: a bar reaches back to it
    for (const sample of samples) {
      const entry = sample.devices[name];
      if (!entry) continue;
      const at = (time) => area.width * (1 - (now - time) / HISTORY);
      const from = at(Math.max(before ?? 0, sample.time - 5));
      before = sample.time;
      const height = entry.level > 1 ? area.height : area.height * Math.min(1, entry.load || 0);
      area.context.fillStyle = css(entry.level > 1 ? '--bad' : entry.level ? '--warn' : '--mark');
      area.context.fillRect(from, area.height - height, Math.max(1.5, at(sample.time) - from), height);
    }
  }
}

function onSample(sample) {
  samples.push(sample);
  const oldest = sample.time - HISTORY;
  while (samples.length && samples[0].time < oldest) samples.shift();
  for (const [name, entry] of Object.entries(sample.streams)) camera(name).onSample(entry);
  for (const [name, each] of cameras) {
    if (!(name in sample.streams)) { each.card.remove(); cameras.delete(name); }
  }
  for (const [name, entry] of Object.entries(sample.devices)) {
    let lane = document.querySelector(`.lane[data-device="${CSS.escape(name)}"]`);
    if (!lane) {
      lane = document.createElement('div');
      lane.className = 'lane'; lane.dataset.device = name;
      for (const part of ['name', 'canvas', 'load']) {
        const element = document.createElement(part === 'canvas' ? 'canvas' : 'span');
        if (part !== 'canvas') element.className = part;
        lane.append(element);
      }
      find('devices').append(lane);
    }
    lane.querySelector('.name').textContent = name;
    lane.title = entry.message;
    const load = lane.querySelector('.load');
    load.textContent = entry.level > 1 ? entry.status.replaceAll('_', ' ') : entry.load === null ? '' : `${Math.round(100 * entry.load)} %`;
    load.className = `load level${entry.level}`;
  }
  if (sample.executor) showState(sample.executor.message, sample.executor.level);
  find('hint').hidden = true;
}

function showState(text, level) {
  find('executor').textContent = text;
  find('executor').className = `state level${level}`;
}

function addFault({time, what, level, text}) {
  const item = document.createElement('li'), when = document.createElement('time'), state = document.createElement('span');
  when.textContent = new Date(1000 * time).toLocaleTimeString();
  state.textContent = `${what}: ${text}`;
  state.className = `level${level}`;
  item.append(when, state);
  find('faults').prepend(item);
  while (find('faults').children.length > 200) find('faults').lastChild.remove();
}

function onMessage(message) {
  if (message.kind === 'welcome') {
    samples = []; find('faults').replaceChildren();
    find('domain').textContent = `ROS domain ${message.domain}`;
    message.faults.forEach(addFault);
    message.samples.forEach(onSample);
    if (!message.samples.length) {
      showState('waiting', 1);
      find('hint').hidden = false;
      find('hint').textContent = `No multi_camera on ROS domain ${message.domain} yet. Start one with `
        + '“yolox_trt up” or “ros2 launch yolox_trt multi_camera.launch.py”; it appears by itself.';
    }
    drawCharts();
  } else if (message.kind === 'diagnostics') {
    message.faults.forEach(addFault); onSample(message); drawCharts();
  } else if (message.kind === 'detections') {
    camera(message.camera).onResult(message.stamp, message.boxes);
  } else if (message.kind === 'settings') {
    const card = camera(message.camera).card;
    for (const [name, value] of Object.entries(message.values)) {
      const input = card.querySelector(`[data-name="${name}"]`);
      if (!input) continue;
      if (input.type === 'checkbox') input.checked = value; else input.value = value;
      showValue(input);
    }
    if (message.refusal) showRefusal(card, message.refusal);
  } else if (message.kind === 'changed') {
    showRefusal(camera(message.camera).card, message.refusal);
    if (message.refusal) send({camera: message.camera});
  }
}

function showRefusal(card, text) {
  const line = card.querySelector('.refusal');
  line.hidden = !text;
  line.textContent = text;
}

async function onImage(data) {
  const head = new DataView(data).getUint32(0, true);
  const about = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, head)));
  const bitmap = await createImageBitmap(new Blob([new Uint8Array(data, 4 + head)], {type: 'image/jpeg'}));
  camera(about.camera).onImage({...about, bitmap});
}

function send(request) {
  if (socket && socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify(request));
}

let retry = 0;
function connect() {
  clearTimeout(retry);
  const scheme = location.protocol === 'https:' ? 'wss' : 'ws';
  socket = new WebSocket(`${scheme}://${location.host}/socket${location.search}`);
  socket.binaryType = 'arraybuffer';
  socket.onmessage = ({data}) => typeof data === 'string' ? onMessage(JSON.parse(data)) : onImage(data);
  socket.onclose = () => { showState('not connected, trying again', 2); retry = setTimeout(connect, 1000); };
}

// A page in the background looks at nothing: the server subscribes to nothing for it.
document.addEventListener('visibilitychange', () => {
  clearTimeout(retry);
  if (socket) { socket.onclose = socket.onmessage = null; socket.close(); }
  if (!document.hidden) connect();
});
window.addEventListener('resize', drawCharts);
if (!document.hidden) connect();
