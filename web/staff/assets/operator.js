// The staff page: the sales to choose from; of one, its live figures and controls for operators, and
// its terms for organisers.

import { at, attempt, call, count, list, pause, send, session, show, signIn, signOut, whenAndWhere, write } from './api.js';
import { draw, forget } from './chart.js';
import { terms } from './terms.js';

const SECTIONS = ['sign-in', 'choose', 'sale'];
const RETRY = 2000;

let sale = null;
let cursor = null;
/** Ends the reading of a sale that is no longer looked at. */
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
  sale = settings;
  write('state', sale.state.replace('_', ' '));
  write('pause', sale.paused ? 'Resume' : 'Pause');
  write('close', sale.closed ? 'Reopen the sale' : 'Close the sale');
}

/** How far the lottery has come, and what the operator may still say about it. */
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
  if (drawn) return `Drawn: ${count(drawn.lobby, 'person', 'people')} took part.${entropy ? ` Entropy: ${entropy}.` : ''}`;
  const from = source ? ` Entropy will come from: ${source}.` : '';
  if (!fixed) return `At the opening, the order of all who came before is drawn.${from}`;
  const people = count(fixed.lobby, 'person takes', 'people take');
  return source && !entropy ? `It is fixed that ${people} part. The sale opens when you tell what was to be seen here: ${source}` : `${people} part.`;
}

function fill() {
  at('source').value = sale.entropy_source;
  at('rate').value = sale.rate_per_minute;
  at('cap').value = sale.shopper_cap;
  at('message').value = sale.message;
}

/** Server-Sent Events need the access token in a header, so they are read with fetch. */
async function watch(id, { signal }) {
  while (!signal.aborted) {
    try {
      const answer = await send('GET', `/api/sales/${id}/stream`);
      write('link', '');
      await read(answer.body.pipeThrough(new TextDecoderStream()).getReader(), signal);
    } catch (refused) {
      if (signal.aborted) return;
      if (refused.status === 401) return choose();
      write('link', 'No connection; these figures are old. Trying again…');
    }
    await pause(RETRY);
  }
}

async function read(reader, signal) {
  signal.addEventListener('abort', () => reader.cancel());
  let text = '';
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    text += part.value;
    const blocks = text.split('\n\n');
    text = blocks.pop();
    for (const block of blocks) {
      const lines = block.split('\n').filter((line) => line.startsWith('data:'));
      const data = lines.map((line) => line.slice(5)).join('\n');
      if (data && !signal.aborted) figures(JSON.parse(data));
    }
  }
}

async function change(settings, done) {
  const answer = await call('PUT', `/api/sales/${sale.event_id}`, { body: settings });
  state(answer.sale);
  write('done', done);
}

function line(event) {
  const link = document.createElement('a');
  link.href = `#${event.id}`;
  link.textContent = event.name;
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

/** Shows what the address asks for: `#12` is the sale of event 12, anything else the list. */
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
  const [{ event }, { account }] = await Promise.all([call('GET', `/api/events/${id}`), call('GET', '/api/accounts/me')]);
  const is = (...roles) => roles.some((role) => account.roles.includes(role));
  write('sale-title', event.name);
  document.title = `${event.name} · Onsale operator`;
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
  const settings = { rate_per_minute: Number(at('rate').value), shopper_cap: Number(at('cap').value), message: at('message').value };
  write('done', '');
  attempt(async () => {
    await change(settings, 'Applied.');
    fill();
  }, submit.submitter);
});
at('source-form').addEventListener('submit', (submit) => {
  submit.preventDefault();
  write('done', '');
  attempt(() => change({ entropy_source: at('source').value }, 'Announced.'), submit.submitter);
});
at('entropy-form').addEventListener('submit', (submit) => {
  submit.preventDefault();
  const entropy = at('entropy').value.trim();
  if (!confirm(`Tell everyone that it showed “${entropy}”? It can't be changed.`)) return;
  write('done', '');
  attempt(() => change({ entropy }, 'Told. The order is drawn now.'), submit.submitter);
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
