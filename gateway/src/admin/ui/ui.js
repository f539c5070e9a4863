// Shows what the API says. Text goes into the page as text only: names and reasons may come from strangers.
"use strict";

const PERIOD_MS = 2000;
const byId = (id) => document.getElementById(id);
const number = new Intl.NumberFormat();
const seen = new Map();

function cell(value) {
  const td = document.createElement("td");
  if (value instanceof Node) td.append(value);
  else if (typeof value === "number") { td.className = "n"; td.textContent = number.format(value); }
  else if (value && value.numeric) { td.className = "n"; td.textContent = value.numeric; }
  else td.textContent = value ?? "";
  return td;
}

function word(status) {
  const span = document.createElement("span");
  const known = ["healthy", "degraded", "unhealthy", "unresponsive", "unknown"];
  span.className = "word " + (known.includes(status) ? status : "unknown");
  span.textContent = status;
  return span;
}

function fill(id, rows, none) {
  const body = byId(id);
  const made = rows.map((cells) => {
    const tr = document.createElement("tr");
    tr.append(...cells.map(cell));
    return tr;
  });
  if (made.length === 0) {
    const tr = document.createElement("tr");
    const td = cell(none);
    td.colSpan = 20;
    td.className = "quiet";
    tr.append(td);
    made.push(tr);
  }
  body.replaceChildren(...made);
}

function when(stamp) {
  if (!stamp) return "";
  const seconds = Math.max(0, Math.round((Date.now() - Date.parse(stamp)) / 1000));
  const time = document.createElement("time");
  time.dateTime = stamp;
  time.title = stamp;
  const steps = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
  const [size, unit] = steps.find(([each]) => seconds >= each) ?? [1, "s"];
  time.textContent = Math.floor(seconds / size) + " " + unit + " ago";
  return time;
}

// How long something still lasts, marked by how soon that is over.
function left(stamp) {
  const seconds = Math.round((Date.parse(stamp) - Date.now()) / 1000);
  const span = document.createElement("span");
  const level = seconds < 7 * 86400 ? "unhealthy" : seconds < 30 * 86400 ? "degraded" : "healthy";
  span.className = "word " + level;
  const steps = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
  const [size, unit] = steps.find(([each]) => seconds >= each) ?? [1, "s"];
  span.textContent = seconds <= 0 ? "expired" : Math.floor(seconds / size) + " " + unit;
  return span;
}

function rate(session, events, asOf) {
  const now = Date.parse(asOf);
  const before = seen.get(session);
  if (!before || before.now > now) { seen.set(session, { now, events, rate: "" }); return ""; }
  if (now > before.now) {
    const text = number.format(Math.round((events - before.events) * 1000 / (now - before.now)));
    seen.set(session, { now, events, rate: text });
    return text;
  }
  return before.rate;
}

async function read(path) {
  const answer = await fetch(path, { signal: AbortSignal.timeout(5000) });
  if (!answer.ok) throw new Error(path + ": " + answer.status);
  return answer.json();
}

function showHealth(health) {
  const status = word(health.status);
  status.id = "status";
  byId("status").replaceWith(status);
  byId("phase").textContent = health.phase;
  byId("version").textContent = "version " + health.version;
  document.title = health.status + " · DaemonEye gateway";
  fill("health", health.components.map((c) => [c.name, word(c.status), c.message, when(c.since)]), "");
}

function showCollectors({ live, gone, as_of: asOf }) {
  byId("live-count").textContent = number.format(live.length);
  const sessions = new Set(live.map((c) => c.session));
  for (const known of seen.keys()) if (!sessions.has(known)) seen.delete(known);
  fill("live", live.slice(0, 500).map((c) => [
    c.peer, word(c.status), c.address, c.software, when(c.since), { numeric: rate(c.session, c.events, asOf) || " " },
    c.events, c.in_flight, c.rejected, { numeric: c.round_trip_ms == null ? " " : c.round_trip_ms.toFixed(1) + " ms" },
  ]), "No collector is connected.");
  fill("streams", live.flatMap((c) => c.streams.map((s) => [
    c.peer, s.stream, s.class, s.acked, s.backlog, s.lost, s.rejected,
  ])).slice(0, 500), "None.");
  fill("gone", gone.slice(0, 100).map((g) => [
    g.peer, g.address, when(g.until), g.detail ? g.reason + ": " + g.detail : g.reason, g.events,
  ]), "Nobody.");
}

function showDenied({ entries }) {
  const holding = entries.filter((e) => e.holds);
  byId("denied-count").textContent = holding.length ? number.format(holding.length) : "";
  fill("denied", holding.slice(0, 500).map((e) => [
    e.target, e.reason, e.actor, when(e.since), e.until ?? "for good",
  ]), "Nobody.");
}

function showCertificates({ certificates, collectors, forecast, lists }) {
  fill("forecast", ["gateway", "collectors"].map((whose) => {
    const counts = forecast[whose];
    return [whose, counts.expired, counts.in_1d, counts.in_7d, counts.in_30d];
  }), "");
  const own = certificates.map((c) => [c.role, c.subject, c.issuer, left(c.not_after), c.not_after]);
  const theirs = collectors.map((c) => [c.peer, c.subject, c.issuer, left(c.expires), c.expires]);
  fill("lists", lists.map((l) => [
    l.issuer, l.number, when(l.this_update), l.next_update, l.entries, word(l.status === "fresh" ? "healthy" : "degraded"), l.status, l.source,
  ]), "None.");
  fill("certificates", own.concat(theirs.slice(0, 200)), "None.");
}

function showRefusals({ total, recent }) {
  byId("refused-count").textContent = total ? number.format(total) : "";
  fill("refused", recent.slice(0, 100).map((r) => [
    when(r.last), r.count > 1 ? r.address + " of " + r.network : r.address, r.stage, r.reason, r.hint ? r.detail + " — " + r.hint : r.detail, r.count,
  ]), "Nobody.");
}

function showTransports(transports) {
  fill("transports", transports.transports.map((t) => [
    t.transport,
    t.enabled ? word(t.status) : "not in use",
    t.endpoint,
    t.connection_count,
    t.message_rate,
    t.error_rate,
    t.average_latency_ms === null ? "" : { numeric: t.average_latency_ms.toFixed(3) + " ms" },
    t.cause ?? t.last_error?.cause,
  ]), "None.");
}

async function turn() {
  try {
    const parts = ["health", "collectors", "refusals", "bus", "deny-list", "certificates", "transports"];
    const answers = parts.map((part) => read("/api/v1/" + part));
    const [health, collectors, refusals, bus, denied, certificates, transports] = await Promise.all(answers);
    showHealth(health);
    showCollectors(collectors);
    showRefusals(refusals);
    showDenied(denied);
    showCertificates(certificates);
    showTransports(transports);
    fill("held", bus.held.map((h) => [h.route, (h.consumer ? h.consumer + " " : "") + h.cause, when(h.since)]), "None: every route has a listener, or nothing to tell it.");
    byId("stale").hidden = true;
  } catch {
    byId("stale").hidden = false;
  }
  setTimeout(turn, document.hidden ? PERIOD_MS * 5 : PERIOD_MS);
}

turn();
