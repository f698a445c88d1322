// The hardware strip: a bar for each CPU that may be used, the quota, memory, GPUs, and on which CPU each rank runs.
// It is put in front of a view's own script (chart.py), which calls `strip(parent)`; its function takes a sample as
// hardware/sampler.py writes it, with "trouble", and draws it.

const CORE = { width: 22, gap: 6, height: 30, most: 32 };

function strip(parent) {
  const SVG = "http://www.w3.org/2000/svg";
  const XHTML = "http://www.w3.org/1999/xhtml";
  const root = parent.appendChild(document.createElementNS(XHTML, "div"));
  root.className = "cooptim-strip";
  root.hidden = true;
  const svg = root.appendChild(document.createElementNS(SVG, "svg"));
  svg.setAttribute("role", "img");
  const meters = root.appendChild(document.createElementNS(XHTML, "div"));
  meters.className = "cooptim-strip__meters";
  const notice = parent.appendChild(document.createElementNS(XHTML, "div"));
  notice.className = "cooptim-strip__notice";
  notice.setAttribute("role", "status");
  notice.hidden = true;

  function put(tag, attributes, text) {
    const node = svg.appendChild(document.createElementNS(SVG, tag));
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    if (text !== undefined) node.textContent = text;
    return node;
  }

  const percent = (share) => `${Math.round(100 * share)} %`;
  const gib = (bytes) => `${(bytes / 2 ** 30).toPrecision(3)} GiB`;

  /** More CPUs than there is room for are drawn as the mean of as many neighbours. */
  function grouped(cores) {
    const each = Math.ceil(cores.length / CORE.most);
    const found = [];
    for (let i = 0; i < cores.length; i += each) {
      const these = cores.slice(i, i + each);
      const mean = (k) => these.reduce((sum, core) => sum + core[k], 0) / these.length;
      const name = these.length > 1 ? `${these[0][0]}–${these.at(-1)[0]}` : `${these[0][0]}`;
      found.push({ name, numbers: these.map(([number]) => number), busy: mean(1), stolen: mean(2) });
    }
    return found;
  }

  function drawCores({ cores, quota, ranks }) {
    const bars = grouped(cores);
    const width = bars.length * (CORE.width + CORE.gap) + CORE.gap;
    svg.replaceChildren();
    svg.setAttribute("width", width);
    svg.setAttribute("height", CORE.height + 30);
    const bottom = CORE.height + 14;
    bars.forEach(({ name, numbers, busy, stolen }, i) => {
      const x = CORE.gap + i * (CORE.width + CORE.gap);
      const here = Object.entries(ranks).filter(([, cpu]) => numbers.includes(cpu)).map(([rank]) => rank);
      const frame = { x, y: 14, width: CORE.width, height: CORE.height, class: "frame" };
      const full = put("rect", frame);
      put("rect", { x, y: bottom - busy * CORE.height, width: CORE.width, height: busy * CORE.height, class: "busy" });
      const top = bottom - (busy + stolen) * CORE.height;
      put("rect", { x, y: top, width: CORE.width, height: stolen * CORE.height, class: "stolen" });
      put("text", { x: x + CORE.width / 2, y: bottom + 12, "text-anchor": "middle" }, name);
      if (here.length) {
        const said = here.length > 2 ? `${here.length} ranks` : `r${here.join(",")}`;
        put("text", { x: x + CORE.width / 2, y: 11, "text-anchor": "middle", class: "rank" }, said);
      }
      const tip = document.createElementNS(SVG, "title");
      tip.textContent = `CPU ${name}: ${percent(busy)} busy${stolen ? `, ${percent(stolen)} taken by other guests` : ""}`;
      full.append(tip);
    });
    if (quota !== null && quota < cores.length) {
      const y = bottom - (quota / cores.length) * CORE.height;
      put("path", { d: `M0,${y}H${width}`, class: "quota" }).append(
        Object.assign(document.createElementNS(SVG, "title"), { textContent: `quota: ${quota} CPUs` }),
      );
    }
  }

  function meter(name, share, text, kind = "") {
    const line = meters.appendChild(document.createElementNS(XHTML, "div"));
    const label = line.appendChild(document.createElementNS(XHTML, "span"));
    label.textContent = name;
    const bar = line.appendChild(document.createElementNS(XHTML, "div"));
    bar.className = `bar ${kind}`;
    bar.setAttribute("aria-hidden", "true");
    const inner = bar.appendChild(document.createElementNS(XHTML, "div"));
    inner.style.width = `${100 * Math.min(1, Math.max(0, share))}%`;
    line.appendChild(document.createElementNS(XHTML, "span")).textContent = text;
  }

  return function show(sample) {
    const is_known = sample && sample.cores;
    root.hidden = !is_known;
    notice.hidden = !sample?.trouble;
    if (notice.textContent !== (sample?.trouble ?? "")) notice.textContent = sample?.trouble ?? "";
    if (!is_known) return;
    const { cores, quota, throttled, memory, memory_limit: limit, gpus, ranks } = sample;
    drawCores(sample);
    meters.replaceChildren();
    const said = [];
    if (cores.length) {
      const busy = cores.reduce((sum, core) => sum + core[1], 0);
      const stolen = cores.reduce((sum, core) => sum + core[2], 0) / cores.length;
      const room = quota === null ? cores.length : Math.min(quota, cores.length);
      said.push(`${busy.toFixed(1)} of ${+room.toPrecision(3)} CPUs in use`, `${percent(stolen)} taken by other guests`);
      meter("CPUs", busy / cores.length, `${busy.toFixed(1)} of ${+room.toPrecision(3)}${quota === null ? "" : " (quota)"}`);
      if (stolen >= 0.005) meter("stolen", stolen, percent(stolen), "stolen");
    } else {
      meter("CPUs", 0, "unknown");
      said.push("CPUs unknown");
    }
    if (throttled) {
      meter("throttled", throttled, `${percent(throttled)} of the periods`, "throttled");
      said.push(`throttled in ${percent(throttled)} of the periods`);
    }
    if (memory !== null && limit) meter("memory", memory / limit, `${gib(memory)} of ${gib(limit)}`);
    else meter("memory", 0, "unknown");
    said.push(memory !== null && limit ? `memory ${gib(memory)} of ${gib(limit)}` : "memory unknown");
    gpus.forEach((gpu, i) => {
      const name = gpus.length > 1 ? `GPU ${i}` : "GPU";
      meter(name, gpu.busy ?? 0, gpu.busy === null ? "unknown" : percent(gpu.busy));
      if (gpu.memory !== null && gpu.limit) meter(`${name} memory`, gpu.memory / gpu.limit, `${gib(gpu.memory)} of ${gib(gpu.limit)}`);
      said.push(`${name} ${gpu.busy === null ? "unknown" : percent(gpu.busy)} busy`);
    });
    for (const [rank, cpu] of Object.entries(ranks)) said.push(`rank ${rank} on CPU ${cpu}`);
    svg.setAttribute("aria-label", said.join("; "));
    root.dataset.cooptimCores = cores.length;
  };
}
