"use strict";
// Hovering, zooming and hiding lines; and, where the page is watched, taking in what is new.
(() => {
  const SIDE = 1000, TIP_LINES = 20, POLL = 4000;
  const tip = document.getElementById("tip");
  const figures = new Map(); // by id: what is known of each figure and how it is looked at
  const make = (name, content, ...children) => {
    const node = document.createElement(name);
    if (content) node.textContent = content; // never as HTML: names come from folders
    node.append(...children);
    return node;
  };
  const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

  // Numbers in words -------------------------------------------------------------------------------
  const bytes = (value) => {
    for (const unit of ["B", "kB", "MB", "GB"]) {
      if (value < 1000) return `${+value.toPrecision(3)} ${unit}`;
      value /= 1000;
    }
    return `${+value.toPrecision(3)} TB`;
  };
  const words = (value, data, digits) => {
    if (value === null || value === undefined) return "–";
    if (data.unit === "bytes") return bytes(value);
    const text = digits === undefined ? String(+value.toPrecision(4)) : value.toFixed(digits);
    return text.replace("-", "−");
  };

  // Looking at a part of a figure ------------------------------------------------------------------
  const whole = (data) => (data.kind === "heat" ? { x: 0, y: 0, w: data.span[1], h: data.span[3] } : { x: 0, y: 0, w: SIDE, h: SIDE });
  const steps = (low, high, most) => {
    const rough = (high - low) / most, power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough);
    const found = [];
    for (let k = Math.ceil(low / step - 1e-9); k * step <= high + 1e-9 * step; k++) found.push(k * step);
    return [found, Math.max(0, -Math.floor(Math.log10(step) + 1e-9))];
  };
  const mark = (axis, share, text) => {
    const tick = make("i", "", make("b", text));
    tick.className = axis;
    tick.style[axis === "x" ? "left" : "top"] = `${100 * share}%`;
    return tick;
  };
  function lineTicks(data, view) {
    const [left, right, bottom, top] = data.span;
    const x0 = left + (right - left) * view.x / SIDE, x1 = left + (right - left) * (view.x + view.w) / SIDE;
    const y1 = top - (top - bottom) * view.y / SIDE, y0 = top - (top - bottom) * (view.y + view.h) / SIDE;
    const found = steps(x0, x1, 9)[0].filter((x) => Number.isInteger(x)).map((x) => mark("x", (x - x0) / (x1 - x0), String(x)));
    let [values, digits] = steps(y0, y1, 6);
    if (data.log && y1 - y0 > 1.5) values = values.filter((v) => Number.isInteger(v));
    for (const v of values) found.push(mark("y", (y1 - v) / (y1 - y0), data.log ? words(10 ** v, data) : words(v, data, digits)));
    return found;
  }
  function heatTicks(data, view) {
    const side = (axis, names, start, length) => {
      const step = Math.ceil(length / 15), found = [];
      for (let i = Math.floor(start); i < Math.min(start + length, names.length); i += step) {
        const share = (i + 0.5 - start) / length;
        if (share > 0 && share < 1) found.push(mark(axis, share, names[i]));
      }
      return found;
    };
    return [...side("x", data.xNames, view.x, view.w), ...side("y", data.yNames, view.y, view.h)];
  }
  function look(one, view) {
    const all = whole(one.data), least = one.data.kind === "heat" ? 1 : SIDE / 200;
    const w = clamp(view.w, least, all.w), h = clamp(view.h, least, all.h);
    one.view = { w, h, x: clamp(view.x, 0, all.w - w), y: clamp(view.y, 0, all.h - h) };
    const { x, y } = one.view;
    one.zoomed = w < all.w || h < all.h;
    one.node.classList.toggle("zoomed", one.zoomed);
    one.svg.setAttribute("viewBox", `${x} ${y} ${w} ${h}`);
    const draw = one.data.kind === "heat" ? heatTicks : lineTicks;
    if (one.zoomed) one.ticks.replaceChildren(...draw(one.data, one.view));
    else one.ticks.replaceChildren(...one.firstTicks);
    for (const number of one.numbers) {
      const across = (number.x * all.w - x) / w, down = (number.y * all.h - y) / h;
      number.node.hidden = across < 0 || across > 1 || down < 0 || down > 1;
      number.node.style.left = `${100 * across}%`;
      number.node.style.top = `${100 * down}%`;
    }
  }
  function zoom(one, factor) {
    const { x, y, w, h } = one.view, tall = one.data.kind === "heat" ? factor : 1;
    look(one, { w: w * factor, h: h * tall, x: x + w * (1 - factor) / 2, y: y + h * (1 - tall) / 2 });
  }

  // Telling values ---------------------------------------------------------------------------------
  function place(line) {
    const { data } = line;
    let task = 0;
    data.starts.forEach((start, i) => { if (start <= line.x) task = i + 1; });
    return task ? `task ${task}, round ${line.x - data.starts[task - 1] + 1} (${line.x} in all)` : `${data.xLabel}: ${line.x}`;
  }
  function tellLines(one, index) {
    const { data } = one, rows = [];
    data.lines.forEach((line, i) => {
      const y = line.y[index];
      if (y === null || y === undefined || one.hidden.has(i)) return;
      const range = line.low && line.low[index] !== null && line.low[index] !== line.high[index]
        ? ` (${words(line.low[index], data)} to ${words(line.high[index], data)})` : "";
      rows.push({ y, line, text: words(y, data) + range });
    });
    rows.sort((a, b) => b.y - a.y);
    const list = make("dl");
    for (const { line, text } of rows.slice(0, TIP_LINES)) {
      const name = make("dt", line.name);
      name.style.setProperty("--ink", `var(--c${line.style})`);
      if (line.dash) name.className = `dash${line.dash}`;
      list.append(name, make("dd", text));
    }
    const more = rows.length > TIP_LINES ? [make("p", `and ${rows.length - TIP_LINES} more`)] : [];
    return [make("p", place({ data, x: data.x[index] })), list, ...more];
  }
  function tellCell(one, row, column) {
    const { data } = one, value = data.values[row][column];
    const note = data.notes.length ? data.notes[row][column] : "";
    const parts = [make("p", `${data.yLabel} ${data.yNames[row]}, ${data.xLabel} ${data.xNames[column]}`)];
    parts.push(make("p", value === null ? "nothing" : `${words(value, data)} ${data.unit}`));
    return note && value !== null ? [...parts, make("p", note)] : parts;
  }
  function tell(one, at, x, y) {
    one.at = at;
    const { data, view, cursor } = one;
    if (data.kind === "heat") {
      const row = clamp(at[0], 0, data.values.length - 1), column = clamp(at[1], 0, data.xNames.length - 1);
      one.at = [row, column];
      cursor.style.cssText = `left:${100 * (column - view.x) / view.w}%;top:${100 * (row - view.y) / view.h}%;width:${100 / view.w}%;height:${100 / view.h}%`;
      tip.replaceChildren(...tellCell(one, row, column));
    } else {
      const index = clamp(at, 0, data.x.length - 1), [left, right] = data.span;
      one.at = index;
      const share = (SIDE * (data.x[index] - left) / (right - left) - view.x) / view.w;
      cursor.style.cssText = `left:${100 * share}%;top:0;width:0;height:100%`;
      tip.replaceChildren(...tellLines(one, index));
    }
    cursor.hidden = false;
    tip.hidden = false;
    const box = tip.getBoundingClientRect(), wide = document.documentElement.clientWidth;
    const right = x + 16 + box.width < wide ? x + 16 : x - 16 - box.width;
    tip.style.left = `${clamp(right, 4, Math.max(4, wide - box.width - 4))}px`;
    tip.style.top = `${clamp(y + 16, 4, Math.max(4, innerHeight - box.height - 4))}px`;
  }
  function quiet(one) {
    tip.hidden = true;
    one.cursor.hidden = true;
  }
  function under(one, event) {
    const box = one.svg.getBoundingClientRect(), { data, view } = one;
    const x = view.x + view.w * clamp((event.clientX - box.left) / box.width, 0, 0.9999);
    const y = view.y + view.h * clamp((event.clientY - box.top) / box.height, 0, 0.9999);
    if (data.kind === "heat") return [Math.floor(y), Math.floor(x)];
    const [left, right] = data.span, wanted = left + (right - left) * x / SIDE;
    let best = 0;
    data.x.forEach((value, i) => { if (Math.abs(value - wanted) < Math.abs(data.x[best] - wanted)) best = i; });
    return best;
  }

  // A figure comes to life -------------------------------------------------------------------------
  function drag(one, plot, event) {
    if (event.button || event.pointerType === "touch") return;
    const box = one.svg.getBoundingClientRect(), frame = make("div");
    const share = (e) => [clamp((e.clientX - box.left) / box.width, 0, 1), clamp((e.clientY - box.top) / box.height, 0, 1)];
    const from = share(event);
    let to = from;
    frame.className = "box";
    plot.append(frame);
    plot.setPointerCapture(event.pointerId);
    const move = (e) => {
      to = share(e);
      frame.style.cssText = `left:${100 * Math.min(from[0], to[0])}%;top:${100 * Math.min(from[1], to[1])}%;width:${100 * Math.abs(to[0] - from[0])}%;height:${100 * Math.abs(to[1] - from[1])}%`;
    };
    const end = (e) => {
      plot.removeEventListener("pointermove", move);
      plot.removeEventListener("pointerup", end);
      plot.removeEventListener("pointercancel", end);
      frame.remove();
      const across = Math.abs(to[0] - from[0]), down = Math.abs(to[1] - from[1]), { x, y, w, h } = one.view;
      if (e.type === "pointercancel" || Math.max(across * box.width, down * box.height) < 8) return;
      // A stroke along one side zooms along that side only.
      const flat = down * box.height < 12, thin = across * box.width < 12;
      look(one, {
        x: thin ? x : x + w * Math.min(from[0], to[0]), w: thin ? w : w * across,
        y: flat ? y : y + h * Math.min(from[1], to[1]), h: flat ? h : h * down,
      });
    };
    plot.addEventListener("pointermove", move);
    plot.addEventListener("pointerup", end);
    plot.addEventListener("pointercancel", end);
  }
  function keys(one, plot, event) {
    if (event.key === "Escape") { quiet(one); look(one, whole(one.data)); return; }
    const moves = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
    const step = moves[event.key];
    if (!step) return;
    event.preventDefault();
    const heat = one.data.kind === "heat", first = one.at === undefined;
    const at = first ? (heat ? [0, 0] : 0) : heat ? [one.at[0] + step[0], one.at[1] + step[1]] : one.at + step[0] + step[1];
    const box = plot.getBoundingClientRect();
    tell(one, at, box.left, box.top);
  }
  function wake(node) {
    const plot = node.querySelector(".plot"), cursor = make("div");
    const one = {
      node, cursor, data: JSON.parse(node.querySelector("script").textContent), svg: plot.querySelector("svg"),
      ticks: plot.querySelector(".ticks"), hidden: new Set(), zoomed: false,
    };
    cursor.className = "cursor";
    cursor.hidden = true;
    plot.append(cursor);
    one.firstTicks = [...one.ticks.children];
    one.view = whole(one.data);
    one.numbers = [...plot.querySelectorAll(".numbers b")].map((b) => ({ node: b, x: parseFloat(b.style.left) / 100, y: parseFloat(b.style.top) / 100 }));
    plot.addEventListener("pointermove", (e) => tell(one, under(one, e), e.clientX, e.clientY));
    plot.addEventListener("pointerleave", () => quiet(one));
    plot.addEventListener("pointerdown", (e) => drag(one, plot, e));
    plot.addEventListener("dblclick", () => look(one, whole(one.data)));
    plot.addEventListener("keydown", (e) => keys(one, plot, e));
    plot.addEventListener("blur", () => quiet(one));
    const acts = { in: () => zoom(one, 0.5), out: () => zoom(one, 2), whole: () => look(one, whole(one.data)) };
    node.querySelector(".tools").hidden = false;
    for (const button of node.querySelectorAll(".tools button")) button.addEventListener("click", acts[button.dataset.do]);
    for (const button of node.querySelectorAll(".legend button")) {
      const i = Number(button.dataset.line), drawn = one.svg.querySelector(`[data-line="${i}"]`);
      const show = (shown) => {
        if (shown) one.hidden.delete(i); else one.hidden.add(i);
        drawn.classList.toggle("gone", !shown);
        button.setAttribute("aria-pressed", String(shown));
      };
      const point = (on) => { node.classList.toggle("pointing", on); drawn.classList.toggle("pointed", on); };
      one.show = { ...one.show, [i]: show };
      button.addEventListener("click", () => show(one.hidden.has(i)));
      for (const name of ["pointerenter", "focus"]) button.addEventListener(name, () => point(true));
      for (const name of ["pointerleave", "blur"]) button.addEventListener(name, () => point(false));
    }
    return one;
  }
  // Only what is seen is woken: a page may have hundreds of figures.
  const watcher = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      if (!isIntersecting || figures.get(target.id)?.node === target) continue;
      const before = figures.get(target.id), one = wake(target);
      figures.set(target.id, one);
      watcher.unobserve(target);
      if (!before) continue; // the same figure of the page as it was
      if (before.zoomed) look(one, before.view);
      for (const i of before.hidden) one.show[i]?.(false);
    }
  }, { rootMargin: "300px" });
  const begin = () => document.querySelectorAll("figure.figure").forEach((node) => watcher.observe(node));
  begin();
  addEventListener("scroll", () => { tip.hidden = true; }, { passive: true });

  // On paper nothing is folded away.
  let folded = [];
  addEventListener("beforeprint", () => {
    folded = [...document.querySelectorAll("details:not([open])")];
    for (const one of folded) one.open = true;
  });
  addEventListener("afterprint", () => { for (const one of folded) one.open = false; });

  // What is new ------------------------------------------------------------------------------------
  if (!document.body.dataset.watch) return;
  let tag = null;
  async function poll() {
    let said = "Watching";
    try {
      const answer = await fetch("/", { headers: tag ? { "If-None-Match": tag } : {}, cache: "no-store" });
      if (answer.ok) {
        const fresh = new DOMParser().parseFromString(await answer.text(), "text/html").getElementById("content");
        if (tag) take(fresh);
        tag = answer.headers.get("ETag");
      } else if (answer.status !== 304) said = "Trouble; still watching";
    } catch {
      said = "Watching has ended";
    }
    document.body.classList.toggle("ended", said !== "Watching");
    const pulse = document.querySelector(".pulse");
    if (pulse) pulse.textContent = said;
    setTimeout(poll, POLL);
  }
  function take(fresh) {
    const main = document.getElementById("content"), focused = document.activeElement;
    // What is at the top of the window stays there, whatever has come in above it.
    const high = (one) => one.getBoundingClientRect().top;
    const seen = [...main.querySelectorAll("figure[id], details[id]")].find((one) => one.offsetParent && high(one) >= 0);
    const before = seen ? high(seen) : 0, place = scrollY;
    const figure = focused.closest?.("figure"), plot = figure && focused.classList.contains("plot");
    for (const one of main.querySelectorAll("details[id]")) {
      const other = fresh.querySelector(`#${CSS.escape(one.id)}`);
      if (other) other.open = one.open;
    }
    tip.hidden = true;
    main.replaceWith(fresh);
    begin();
    scrollTo({ top: place, behavior: "instant" });
    const again = seen && place > 0 ? document.getElementById(seen.id) : null;
    if (again) scrollBy({ top: high(again) - before, behavior: "instant" });
    if (plot) document.getElementById(figure.id)?.querySelector(".plot").focus({ preventScroll: true });
  }
  poll();
})();
