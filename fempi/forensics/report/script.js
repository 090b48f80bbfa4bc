"use strict";
// Draws the charts of the page, each when it comes into view, in the colours of the reader's scheme.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const [BLUE, VERMILION, , PURPLE] = data.colours;
  const SAND = "#efe0bd";
  const PRINTED = { width: 660, height: 860 }; // pixels of a sheet of A4 that a chart may take
  const NARROW = 600;
  const MOST_LABELS = 30; // of points in a map; of more one could not be read for the others
  const DASHES = ["solid", "dash", "dot", "dashdot"];
  const root = document.documentElement;
  const printing = () => root.classList.contains("printing");
  const heightOf = (chart) => (printing() ? Math.min(chart.height, PRINTED.height) : chart.height);
  const widthOf = (figure) => (printing() ? PRINTED.width : figure.clientWidth);
  const css = (name) => getComputedStyle(root).getPropertyValue(name).trim();

  // Plotly reads some markup in text: what a record says must not become any.
  const plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  const short = (text, most = 40) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);
  const said = (value) => (value === null ? "-" : String(value));
  // Black is a colour of the palette; on a dark page it is the text's.
  const colour = (k) => {
    const chosen = data.colours[k % data.colours.length];
    return chosen === "#000000" ? css("--text") : chosen;
  };
  const faded = (hex) => `${hex}33`;

  function axis(title, more = {}) {
    return {
      title: { text: title, standoff: 8 },
      gridcolor: css("--grid"), zerolinecolor: css("--line"), linecolor: css("--line"), tickcolor: css("--line"),
      automargin: true, ...more,
    };
  }

  function layout(more) {
    return {
      paper_bgcolor: css("--surface"), plot_bgcolor: css("--surface"),
      font: { family: getComputedStyle(document.body).fontFamily, size: 12.5, color: css("--text") },
      margin: { l: 56, r: 12, t: 12, b: 44 },
      hoverlabel: { bgcolor: css("--raised"), bordercolor: css("--line"), font: { color: css("--text") }, align: "left" },
      legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", bgcolor: "rgba(0,0,0,0)" },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: css("--quiet"), activecolor: css("--text") },
      ...more,
    };
  }

  function lines(chart) {
    const traces = [];
    const dense = chart.lines[0].x.length > 400; // dashes would run into each other
    chart.lines.forEach((line, k) => {
      const own = line.quiet ? css("--quiet") : colour(k);
      const name = plain(short(line.name));
      const group = `line ${k}`;
      if (line.low) { // a band: its lower edge, then its upper one, filled down to it
        const edge = { x: line.x, mode: "lines", line: { width: 0 }, legendgroup: group, showlegend: false, hoverinfo: "skip" };
        traces.push({ ...edge, y: line.low }, { ...edge, y: line.high, fill: "tonexty", fillcolor: faded(own) });
      }
      traces.push({
        x: line.x, y: line.y, name, legendgroup: group,
        mode: line.points ? "markers" : chart.markers && !line.quiet ? "lines+markers" : "lines",
        connectgaps: true,
        line: { color: own, width: line.quiet || dense ? 1 : 2, dash: (!dense && line.dash) || DASHES[Math.floor(k / data.colours.length) % 4] },
        marker: line.points ? { size: 11, symbol: "x", color: own } : { size: 5 },
        hoverinfo: line.quiet ? "skip" : "text",
        text: line.x.map((x, i) => `${name}<br>${plain(chart.x)} ${x}: ${said(line.y[i])}` + (line.low ? ` (${said(line.low[i])} to ${said(line.high[i])})` : "")),
      });
    });
    const flat = chart.lines.every((line) => line.y.every((y) => !y));
    const range = chart.whole || flat ? { range: [-0.02, 1.02] } : {};
    return [traces, layout({
      xaxis: axis(chart.x, chart.square ? { range: [-0.02, 1.02] } : { rangemode: "tozero" }),
      yaxis: axis(chart.y, range),
      showlegend: chart.lines.length <= 24,
      hovermode: chart.square || chart.each ? "closest" : "x",
    })];
  }

  function bars(chart) {
    const trace = {
      type: "bar", x: chart.names.map((name) => plain(short(name, 24))), y: chart.values, marker: { color: BLUE },
      hoverinfo: "text", text: chart.names.map((name, i) => `${plain(name)}: ${said(chart.values[i])}`), textposition: "none",
    };
    return [[trace], layout({
      xaxis: axis(chart.x, { type: "category" }), yaxis: axis(chart.y, { rangemode: "tozero" }), showlegend: false,
    })];
  }

  // How each score becomes a colour: trust by its rank in the round, for what rules call trust has no common scale.
  const FROM_BAD = [[0, VERMILION], [0.5, SAND], [1, BLUE]];
  const SCORES = {
    trust: { title: "trust, rank in the round", scale: FROM_BAD, range: [0, 1], values: (chart) => byRound(chart, chart.trust, ranks) },
    norm: {
      title: "norm, of the round's median", scale: [[0, BLUE], [0.5, SAND], [1, VERMILION]], range: [-3, 3],
      values: (chart) => byRound(chart, chart.norm, logarithms),
      ticks: { tickvals: [-3, -2, -1, 0, 1, 2, 3], ticktext: ["1/8", "1/4", "1/2", "1", "2", "4", "8"] },
    },
    cosine: { title: "cosine", scale: FROM_BAD, range: [-1, 1], values: (chart) => chart.cosine },
    weight: { title: "weight", scale: [[0, SAND], [1, BLUE]], values: (chart) => chart.weight },
  };

  function byRound(chart, values, measure) {
    return chart.rounds.flatMap((_, i) => measure(values.slice(i * chart.slots, (i + 1) * chart.slots)));
  }

  function ranks(values) { // 0, least trusted, to 1; equal ones in the middle of theirs
    const scores = values.map((value) => (value === null ? -Infinity : value));
    if (scores.length < 2) return scores.map(() => 1);
    const sorted = [...scores].sort((a, b) => (a === b ? 0 : a < b ? -1 : 1));
    const last = new Map(sorted.map((score, i) => [score, i]));
    const first = new Map(sorted.map((score, i) => [score, i]).reverse());
    return scores.map((score) => (first.get(score) + last.get(score)) / 2 / (scores.length - 1));
  }

  function logarithms(norms) {
    const known = norms.filter((norm) => norm !== null).sort((a, b) => a - b);
    const k = Math.floor(known.length / 2);
    const median = known.length % 2 ? known[k] : (known[k - 1] + known[k]) / 2;
    return norms.map((norm) => (norm === null || !(median > 0) ? null : Math.max(-10, Math.log2(norm / median))));
  }

  function hostOf(chart, round, rank) {
    const launch = chart.launches.filter((each) => each.first <= round).pop() || chart.launches[0];
    return launch.hosts[rank] || "unknown";
  }

  function timeline(chart, figure) {
    const chosen = figure.querySelector("input:checked").value;
    const score = SCORES[chosen];
    const line = new Map(chart.clients.map((client, i) => [client, i]));
    const empty = () => chart.clients.map(() => new Array(chart.rounds.length).fill(null));
    const [z, text] = [empty(), empty()];
    const out = { x: [], y: [] };
    score.values(chart).forEach((value, k) => {
      const column = Math.floor(k / chart.slots);
      const round = chart.rounds[column];
      const row = line.get(chart.client[k]);
      z[row][column] = value;
      text[row][column] = [
        `<b>client ${chart.client[k]}, round ${round}</b>`,
        `trust ${said(chart.trust[k])}`,
        `norm ${chart.norm[k] === null ? "not finite" : chart.norm[k]}`,
        `cosine ${said(chart.cosine[k])}`,
        `selected ${chart.selected[k] ? "yes" : "no"}`,
        `weight ${said(chart.weight[k])}`,
        `rank ${chart.rank[k]} on ${plain(short(hostOf(chart, round, chart.rank[k])))}`,
      ].join("<br>");
      if (!chart.selected[k]) {
        out.x.push(round);
        out.y.push(row);
      }
    });
    const places = chart.clients.map((_, i) => i);
    const height = heightOf(chart) - 96;
    const tall = height / places.length;
    const width = widthOf(figure);
    const narrow = width < NARROW;
    const room = (width - 140) / chart.rounds.length;
    const beside = { title: { text: score.title, side: "right" }, len: 1 };
    const below = { title: { text: score.title, side: "top" }, orientation: "h", y: -48 / height, yanchor: "top" };
    const traces = [{
      type: "heatmap", x: chart.rounds, y: places, z, text, hoverinfo: "text", hoverongaps: false,
      colorscale: score.scale, ...(score.range ? { zmin: score.range[0], zmax: score.range[1] } : { zmin: 0 }),
      xgap: room > 5 ? 1 : 0, ygap: tall > 5 ? 1 : 0,
      colorbar: { thickness: 12, outlinewidth: 0, ...(narrow ? below : beside), ...score.ticks },
    }];
    if (tall > 5 && room > 5) {
      traces.push({
        ...out, mode: "markers", hoverinfo: "skip", showlegend: false,
        marker: { symbol: "x-thin", size: 5, line: { width: 1, color: "#1b1d21" } },
      });
    }
    const marks = (clients, x, name, symbol, own) => traces.push({
      x: clients.map(() => x), y: clients.map((client) => line.get(client)), xaxis: "x2", mode: "markers", name, cliponaxis: false,
      marker: { symbol, size: Math.max(4, Math.min(9, tall - 2)), color: own }, hoverinfo: "text",
      text: clients.map((client) => `client ${client}: ${name}`),
    });
    const marked = chart.suspects + chart.unusual;
    if (chart.suspects) marks(chart.clients.slice(0, chart.suspects), 0, "suspect", "circle", VERMILION);
    if (chart.unusual) marks(chart.clients.slice(chart.suspects, marked), 0, "stands out, perhaps by unusual data", "circle-open", VERMILION);
    if (chart.malicious && chart.malicious.length) marks(chart.malicious, 1, "malicious (truth)", "diamond", PURPLE);
    const left = (chart.malicious ? 36 : 20) / (width - 140);
    const every = Math.ceil(places.length / 100);
    const edge = {
      type: "line", xref: "paper", x0: 0, x1: 1, y0: marked - 0.5, y1: marked - 0.5,
      line: { color: css("--text"), width: 1 },
    };
    return [traces, layout({
      plot_bgcolor: css("--raised"), margin: { l: 56, r: 12, t: 32, b: narrow ? 110 : 44 },
      xaxis: axis("round", { domain: [left, 1], showgrid: false, zeroline: false, range: [chart.rounds[0] - chart.step / 2, chart.rounds.at(-1) + chart.step / 2] }),
      xaxis2: { domain: [0, left * 0.9], visible: false, fixedrange: true, range: chart.malicious ? [-0.7, 1.7] : [-1, 1] },
      yaxis: axis("client", {
        anchor: "free", position: 0, range: [places.length - 0.5, -0.5], showgrid: false, zeroline: false,
        tickvals: places.filter((i) => i % every === 0 || i < marked), ticktext: chart.clients.filter((_, i) => i % every === 0 || i < marked).map(String),
        tickfont: { size: Math.max(7, Math.min(11, tall - 2)) },
      }),
      shapes: 0 < marked && marked < places.length ? [edge] : [],
      hovermode: "closest",
    })];
  }

  function map(chart, figure) {
    const slider = figure.querySelector("input");
    const one = chart.rounds[Number(slider.value)];
    const span = (values) => Math.max(...values) - Math.min(...values);
    const [wide, high] = [span(one.x), span(one.y)];
    const near = (i, j) => Math.abs(one.x[i] - one.x[j]) <= 0.05 * wide && Math.abs(one.y[i] - one.y[j]) <= 0.05 * high;
    const labels = (kept) => { // one for all that lie in one place, at the first of them
      const places = new Map();
      for (const i of kept) {
        const first = [...places.keys()].find((j) => near(i, j));
        places.set(first ?? i, [...(places.get(first) || []), one.client[i]]);
      }
      return kept.map((i) => (places.has(i) ? short(places.get(i).join(", "), 28) : ""));
    };
    figure.querySelector("output").textContent = one.round + (one.not_finite ? `, ${one.not_finite} updates not finite` : "");
    const traces = [[0, "others", BLUE, "circle"], [1, "suspects", VERMILION, "square"]].map(([suspect, name, own, symbol]) => {
      const kept = one.client.map((_, i) => i).filter((i) => one.suspect[i] === suspect && one.x[i] !== null);
      return {
        x: kept.map((i) => one.x[i]), y: kept.map((i) => one.y[i]), name, mode: one.client.length <= MOST_LABELS ? "markers+text" : "markers",
        text: labels(kept), textposition: "top center", textfont: { size: 10 },
        marker: { color: own, symbol, size: 9 }, hoverinfo: "text",
        hovertext: kept.map((i) => `client ${one.client[i]}` + (one.attacking ? (one.attacking[i] ? ", attacking" : ", not attacking") : "")),
      };
    });
    if (one.attacking) {
      const kept = one.client.map((_, i) => i).filter((i) => one.attacking[i] && one.x[i] !== null);
      traces.push({
        x: kept.map((i) => one.x[i]), y: kept.map((i) => one.y[i]), name: "attacking (truth)", mode: "markers", hoverinfo: "skip",
        marker: { symbol: "circle-open", size: 17, color: PURPLE, line: { width: 2, color: PURPLE } },
      });
    }
    traces.unshift({
      x: [one.centre[0]], y: [one.centre[1]], name: "geometric median", mode: "markers", hoverinfo: "name",
      marker: { symbol: "star", size: 13, color: css("--text") },
    });
    const share = (k) => (one.variance[k] === null ? "" : ` (${Math.round(100 * one.variance[k])} %)`);
    return [traces.filter((trace) => trace.x.length), layout({
      xaxis: axis(`first component${share(0)}`), yaxis: axis(`second component${share(1)}`),
      hovermode: "closest", showlegend: true,
    })];
  }

  const KINDS = { lines, bars, timeline, map };
  const drawn = new Set();

  function draw(box) {
    const chart = box.dataset.run === undefined ? data.compared : data.runs[box.dataset.run][box.dataset.chart];
    const [traces, look] = KINDS[box.dataset.kind](chart, box.closest("figure"));
    const height = heightOf(chart);
    box.style.height = `${height}px`;
    Plotly.react(box, traces, { ...look, height, ...(printing() ? { width: PRINTED.width } : { autosize: true }) }, {
      responsive: !printing(), displaylogo: false,
      modeBarButtons: [["toImage"], ["zoom2d", "pan2d"], ["resetScale2d"]], // none that sends anything anywhere
    });
    drawn.add(box);
  }

  const boxes = [...document.querySelectorAll(".chart")];
  const seen = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      seen.unobserve(target);
      if (!drawn.has(target)) draw(target);
    }
  }, { rootMargin: "300px" });
  for (const box of boxes) {
    for (const input of box.closest("figure").querySelectorAll("input")) input.addEventListener("input", () => draw(box));
    seen.observe(box);
  }

  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawn.forEach(draw));
  // A sheet of paper is white, narrower than most windows, and has no cursor to open anything with.
  const closed = new Set();
  addEventListener("beforeprint", () => {
    root.classList.add("printing");
    for (const each of document.querySelectorAll("details:not([open])")) {
      closed.add(each);
      each.open = true;
    }
    boxes.forEach(draw);
  });
  addEventListener("afterprint", () => {
    root.classList.remove("printing");
    closed.forEach((each) => (each.open = false));
    closed.clear();
    drawn.forEach(draw);
  });
})();
