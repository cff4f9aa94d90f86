// The staff page: the list of sales; for one, live figures and controls for operators, and its terms
// for organisers.

import {
  at,
  attempt,
  bdi,
  call,
  count,
  isolated,
  list,
  pause,
  send,
  session,
  show,
  signIn,
  signOut,
  whenAndWhere,
  write,
} from './api.js';
import { draw, forget } from './chart.js';
import { terms } from './terms.js';

const SECTIONS = ['sign-in', 'choose', 'sale'];
const RETRY = 2000;
/** The stream has an event every second; without one for this long the figures are stale. */
const STALE = 3000;
/** A change of the rate beyond this factor is confirmed first. */
const LARGE_STEP = 3;
/** Form fields by setting. */
const FIELDS = { rate_per_minute: 'rate', shopper_cap: 'cap', message: 'message' };

let sale = null;
let cursor = null;
/** Aborts the stream of a sale that is no longer shown. */
let watching = new AbortController();

function figures({ sale: settings, live }) {
  // Figures are up to a second old, so they may still carry the settings before the last change.
  if (settings.version >= sale.version) state(settings);
  const stock = live?.stock;
  const values = {
    waiting: live?.waiting,
    joined: live?.joined,
    cursor: live?.cursor,
    claimed: live?.claimed_last_minute,
    shopping: live?.shopping,
    available: stock?.available,
    held: stock?.held,
    sold: stock?.sold,
  };
  for (const [id, value] of Object.entries(values)) write(id, value?.toLocaleString() ?? '–');
  lottery(live?.lottery);
  if (live?.claimed_last_minute !== undefined) draw(at('chart'), live.claimed_last_minute, sale.rate_per_minute);
}

function state(settings) {
  const before = sale?.event_id === settings.event_id ? sale : null;
  sale = settings;
  refill(before);
  write('state', sale.state.replace('_', ' '));
  write('pause', sale.paused ? 'Resume' : 'Pause');
  write('close', sale.closed ? 'Reopen the sale' : 'Close the sale');
}

/** Shows the progress of the lottery, and the forms that are allowed at this stage. */
function lottery(known) {
  at('lottery').hidden = !known?.commitment;
  if (!known?.commitment) return;
  const { entropy_source: source, entropy } = sale;
  write('commitment', known.commitment);
  write('lottery-text', lotteryText(known, source, entropy));
  at('source-form').hidden = sale.state !== 'scheduled';
  at('entropy-form').hidden = !source || Boolean(entropy) || !known.fixed;
}

function lotteryText({ fixed, drawn }, source, entropy) {
  if (drawn)
    return `Drawn: ${count(drawn.lobby, 'person', 'people')} took part.${entropy ? ` Entropy: ${entropy}.` : ''}`;
  const from = source ? ` Entropy will come from: ${source}.` : '';
  if (!fixed) return `At the opening, the order of everybody who joined before is drawn.${from}`;
  const people = count(fixed.lobby, 'person takes', 'people take');
  return source && !entropy
    ? `${people} part. The sale opens when you enter what this source showed: ${source}`
    : `${people} part.`;
}

function fill() {
  at('source').value = sale.entropy_source;
  for (const [setting, id] of Object.entries(FIELDS)) at(id).value = sale[setting];
}

/** The settings that were changed in the form; untouched ones are not sent. */
function touched(before) {
  const entries = Object.entries(FIELDS).filter(([setting, id]) => at(id).value !== String(before[setting]));
  return Object.fromEntries(
    entries.map(([setting, id]) => [setting, setting === 'message' ? at(id).value : Number(at(id).value)]),
  );
}

/** Updates untouched fields with changes by others. */
function refill(before) {
  if (!before) return;
  const mine = touched(before);
  for (const [setting, id] of Object.entries(FIELDS)) if (!(setting in mine)) at(id).value = sale[setting];
}

/**
 * Confirms an unusual change of the rate.
 *
 * @param {{ rate_per_minute?: number }} settings
 */
function isMeant({ rate_per_minute: rate }) {
  if (rate === undefined) return true;
  const was = sale.rate_per_minute;
  if (rate === 0) return confirm('Let in nobody? People wait without knowing why; Pause shows them.');
  if (was > 0 && (rate > was * LARGE_STEP || rate * LARGE_STEP < was)) {
    return confirm(`Change the rate from ${was.toLocaleString()} to ${rate.toLocaleString()} a minute?`);
  }
  return true;
}

/** Reads Server-Sent Events with fetch, since EventSource sends no access token. */
async function watch(id, { signal }) {
  while (!signal.aborted) {
    try {
      const answer = await send('GET', `/api/sales/${id}/stream`);
      await read(answer.body.pipeThrough(new TextDecoderStream()).getReader(), signal);
    } catch (refused) {
      if (signal.aborted) return;
      if (refused.status === 401) return choose();
    }
    if (signal.aborted) return;
    markAsOld();
    await pause(RETRY);
  }
}

function markAsOld() {
  write('link', 'No connection: these figures are old. Trying again…');
  at('steering').classList.add('stale');
}

function markAsFresh() {
  write('link', '');
  at('steering').classList.remove('stale');
}

/** The next chunk of the stream; fails after a silence, so that it reconnects. */
async function nextPart(reader) {
  let timer;
  const silence = new Promise((_, fail) => {
    timer = setTimeout(() => fail(new Error('The stream is silent.')), STALE);
  });
  try {
    return await Promise.race([reader.read(), silence]);
  } finally {
    clearTimeout(timer);
  }
}

async function read(reader, signal) {
  signal.addEventListener('abort', () => reader.cancel());
  try {
    await readBlocks(reader, signal);
  } finally {
    reader.cancel().catch(() => {});
  }
}

async function readBlocks(reader, signal) {
  let text = '';
  for (let part = await nextPart(reader); !part.done; part = await nextPart(reader)) {
    text += part.value;
    const blocks = text.split('\n\n');
    text = blocks.pop();
    for (const block of blocks) {
      const lines = block.split('\n').filter((line) => line.startsWith('data:'));
      const data = lines.map((line) => line.slice(5)).join('\n');
      if (!data || signal.aborted) continue;
      markAsFresh();
      figures(JSON.parse(data));
    }
  }
}

async function change(settings, done) {
  const answer = await call('PUT', `/api/sales/${sale.event_id}`, { body: settings });
  state(answer.sale);
  write('done', done);
}

/** Applies the changed settings, unless the sale has another version by now. */
async function applyTouched() {
  const settings = touched(sale);
  if (Object.keys(settings).length === 0) return write('done', 'Nothing was changed.');
  if (!isMeant(settings)) return;
  try {
    await change({ ...settings, version: sale.version }, 'Applied.');
    fill();
  } catch (failure) {
    if (failure.status !== 409) throw failure;
    state((await call('GET', `/api/sales/${sale.event_id}`)).sale);
    throw new Error(
      'Somebody else has just changed this sale. Their values are shown where you changed nothing; look, and apply again.',
    );
  }
}

function line(event) {
  const link = document.createElement('a');
  link.href = `#${event.id}`;
  link.append(bdi(event.name));
  const where = document.createElement('p');
  where.className = 'quiet';
  where.textContent = `Event ${event.id} · ${whenAndWhere(event)}`;
  const both = document.createDocumentFragment();
  both.append(link, where);
  return both;
}

let found = [];

async function look(fresh) {
  const wanted = new URLSearchParams({ q: at('q').value });
  if (!fresh && cursor) wanted.set('cursor', cursor);
  const { events, next_cursor: next } = await call('GET', `/api/events?${wanted}`);
  found = fresh ? events : [...found, ...events];
  cursor = next;
  list('events', found, line);
  at('more').hidden = !next;
  write('found', found.length ? count(found.length, 'event', 'events') : 'No event matches.');
}

/** Shows the sale or list that the URL's fragment names: `#12` is the sale of event 12. */
async function choose() {
  watching.abort();
  write('done', '');
  at('sign-out').hidden = !session();
  if (!session()) return show('sign-in', SECTIONS);
  const id = Number(location.hash.slice(1));
  if (id > 0) return open(id);
  document.title = 'Onsale operator';
  await look(true);
  show('choose', SECTIONS);
}

async function open(id) {
  const mine = new AbortController();
  watching = mine;
  // Never show another sale's figures and controls under this URL.
  sale = null;
  show(null, SECTIONS);
  const [{ event }, { account }] = await Promise.all([
    call('GET', `/api/events/${id}`),
    call('GET', '/api/accounts/me'),
  ]);
  const is = (...roles) => roles.some((role) => account.roles.includes(role));
  write('sale-name', event.name);
  document.title = `${isolated(event.name)} · Onsale operator`;
  terms(is('organiser', 'admin') && event.state !== 'cancelled' ? event : null);
  at('steering').hidden = !is('operator', 'admin');
  if (at('steering').hidden) return show('sale', SECTIONS);
  const live = await call('GET', `/api/sales/${id}`);
  forget();
  state(live.sale);
  figures(live);
  fill();
  show('sale', SECTIONS);
  watch(id, mine);
}

at('sign-in-form').addEventListener('submit', (submit) => {
  submit.preventDefault();
  attempt(async () => {
    await signIn(at('email').value, at('password').value, false);
    at('password').value = '';
    await choose();
  }, submit.submitter);
});
at('sign-out').addEventListener('click', () =>
  attempt(async () => {
    await signOut();
    await choose();
  }),
);
at('search').addEventListener('submit', (submit) => {
  submit.preventDefault();
  attempt(() => look(true));
});
at('more').addEventListener('click', () => attempt(() => look(false)));
at('settings').addEventListener('submit', (submit) => {
  submit.preventDefault();
  write('done', '');
  attempt(applyTouched, submit.submitter);
});
at('source-form').addEventListener('submit', (submit) => {
  submit.preventDefault();
  write('done', '');
  attempt(() => change({ entropy_source: at('source').value }, 'Announced.'), submit.submitter);
});
at('entropy-form').addEventListener('submit', (submit) => {
  submit.preventDefault();
  const entropy = at('entropy').value.trim();
  if (!confirm(`Publish that it showed “${entropy}”? This can’t be changed.`)) return;
  write('done', '');
  attempt(() => change({ entropy }, 'Published. The order is being drawn.'), submit.submitter);
});
at('pause').addEventListener('click', ({ currentTarget }) =>
  attempt(() => change({ paused: !sale.paused }, sale.paused ? 'Resumed.' : 'Paused.'), currentTarget),
);
at('close').addEventListener('click', ({ currentTarget }) => {
  if (!sale.closed && !confirm('Close the sale? Nobody can join or book any more.')) return;
  attempt(() => change({ closed: !sale.closed }, sale.closed ? 'Reopened.' : 'Closed.'), currentTarget);
});
addEventListener('hashchange', () => attempt(choose));
attempt(choose);
