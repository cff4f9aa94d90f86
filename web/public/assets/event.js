// One event: join its queue, wait, and choose seats when it is your turn.

import { at, attempt, call, clock, count, duration, list, moment, money, pause, problem, session, show, signIn, whenAndWhere, write } from './api.js';

const eventId = location.pathname.split('/')[2];
const SECTIONS = ['sign-in', 'door', 'waiting', 'shop'];
const TOKEN = `onsale.queue.${eventId}`;
const PASS = `onsale.pass.${eventId}`;
const LONGEST_WATCH = 30000;

let event = null;
let joinedAhead = null;

async function describe() {
  ({ event } = await call('GET', `/api/events/${eventId}`));
  document.title = `${event.name} · Onsale`;
  write('name', event.name);
  write('when', whenAndWhere(event));
  write('about', event.description);
  list('prices', event.sections, price);
  const anywhere = new Option('Best available, anywhere', '');
  at('section').replaceChildren(anywhere, ...event.sections.map((s) => new Option(`${s.name}, ${money(s.tier.price)}`, s.id)));
  const most = Math.min(20, event.max_tickets_per_account);
  at('tickets').max = most;
  at('tickets').value = Math.min(2, most);
  write('most', `At most ${most} for each person.`);
}

/** What comes back to who cancels, said before anything is bought. */
async function refunds() {
  const { refund_policy: policy } = await call('GET', `/api/events/${eventId}/refund-policy`);
  const [first] = event.sections;
  const isFree = event.sections.every(({ tier }) => tier.price.amount_minor === 0);
  if (isFree) return;
  const { until, fee_percent: percent, fee_minor: minor } = policy;
  const fee = minor && money({ amount_minor: minor, currency: first.tier.price.currency });
  const kept = [percent && `${percent} %`, fee].filter(Boolean).join(' and ');
  const end = until ? ` until ${moment(until, event.time_zone)}` : '';
  const after = until ? ' After that nothing is refunded.' : '';
  const back = kept ? `you get your money back except ${kept} of each booking` : 'you get all your money back';
  write('refunds', `If you cancel${end}, ${back}.${after} If the event is cancelled, you get everything back.`);
}

function price({ name, tier }) {
  const both = document.createDocumentFragment();
  for (const text of [name, money(tier.price)]) {
    const part = document.createElement('span');
    part.textContent = text;
    both.append(part);
  }
  return both;
}

async function stock() {
  const { available } = await call('GET', `/api/events/${eventId}/availability`);
  write('stock', available ? `${count(available, 'seat is', 'seats are')} free now.` : 'No seat is free now.');
}

function tell(message) {
  write('operator', message);
  at('operator').hidden = !message;
}

function atTheDoor({ state, waiting, rate_per_minute: rate }) {
  const waiters = waiting ? `${count(waiting, 'person waits', 'people wait')}.` : 'Nobody waits right now.';
  return {
    scheduled: 'The sale has not opened yet. This page shows when you can join.',
    lobby: 'The sale opens soon. You can join now: the order of all who come before the opening is drawn, so there is no hurry.',
    open: rate ? `${waiters} Up to ${rate.toLocaleString()} are let in each minute.` : waiters,
    paused: 'The sale is paused. You can join, and will be called when it goes on.',
    closed: 'The sale is closed.',
    sold_out: 'Everything is sold.',
  }[state];
}

/** Shows how the queue stands until the person joins or the sale ends. */
async function door() {
  if (!session()) return show('sign-in', SECTIONS);
  show('door', SECTIONS);
  while (!at('door').hidden) {
    const queue = await call('GET', `/api/events/${eventId}/queue`);
    tell(queue.message);
    write('door-text', atTheDoor(queue));
    at('join').hidden = !['lobby', 'open', 'paused'].includes(queue.state);
    if (queue.state === 'closed') return;
    await pause(Math.min(queue.poll_after_ms, LONGEST_WATCH));
  }
}

async function join() {
  const joined = await askToJoin();
  sessionStorage.setItem(TOKEN, joined.queue_token);
  joinedAhead = null;
  // Not awaited: the person's action ends here, and the waiting goes on.
  attempt(wait);
}

/** Joins, with the solution of a challenge when the sale asks for one. */
async function askToJoin() {
  const body = {};
  for (let tries = 0; ; tries++) {
    try {
      return await call('POST', `/api/events/${eventId}/queue`, { body });
    } catch (refused) {
      if (!refused.kind?.startsWith('challenge-') || tries === 3) throw refused;
      at('door-text').textContent = 'One moment: your browser is showing that it is not a robot.';
      body.challenge = await solve(await call('GET', `/api/events/${eventId}/queue/challenge`));
    }
  }
}

/** The solution of a challenge, found in a worker. */
function solve({ algorithm, challenge, maxnumber, salt, signature }) {
  return new Promise((done, fail) => {
    const worker = new Worker('/assets/challenge.js', { type: 'module' });
    const giveUp = () => fail(new Error('Your browser could not solve the challenge. Try again.'));
    worker.onerror = giveUp;
    worker.onmessage = ({ data: number }) => {
      worker.terminate();
      if (number === null) return giveUp();
      done(btoa(JSON.stringify({ algorithm, challenge, number, salt, signature })));
    };
    worker.postMessage({ challenge, maxnumber, salt });
  });
}

const drop = (key) => sessionStorage.removeItem(key);

/** What the draw of the order is bound to beforehand, and afterwards how to check it. */
async function lottery() {
  const { lottery: known } = await call('GET', `/api/events/${eventId}/queue`);
  const { commitment, entropy_source: source, fixed, drawn } = known ?? {};
  at('lottery').hidden = !commitment || drawn?.lobby === 0;
  write('commitment', commitment ?? '');
  at('lottery-check').href = `/api/events/${eventId}/queue/lottery`;
  at('lottery-check').hidden = !drawn;
  const from = source ? `, also by what is to be seen here: ${source}` : '';
  const people = drawn && count(drawn.lobby, 'person', 'people');
  write('lottery-text', drawn ? `The order of the first ${people} was drawn when the sale opened.` : fixed ? `The order is drawn in a moment${from}.` : `When the sale opens, the order of all who joined before is drawn${from}. This fixes the draw beforehand:`);
}

async function wait() {
  show('waiting', SECTIONS);
  lottery().catch(() => {});
  let wasDrawn = null;
  for (;;) {
    const token = sessionStorage.getItem(TOKEN);
    if (!token) return door();
    const me = await look(token);
    if (me.state === 'ready' || me.state === 'claimed') return claim(token);
    if (me.state === 'missed' || me.state === 'left' || me.state === 'unknown') {
      drop(TOKEN);
      problem(me.state === 'missed' ? 'Your turn went by unused. You can join again.' : '');
      return door();
    }
    if (me.state === 'waiting') {
      stand(me);
      const isDrawn = me.place !== null;
      if (wasDrawn !== null && isDrawn !== wasDrawn) lottery().catch(() => {});
      wasDrawn = isDrawn;
    }
    await pause(me.poll_after_ms);
  }
}

/** Where the person stands; a slow server changes nothing about that. */
async function look(token) {
  try {
    return await call('GET', `/api/events/${eventId}/queue/me`, { headers: { 'onsale-queue-token': token } });
  } catch (refused) {
    if (refused.status === 401) return { state: 'unknown' };
    if (refused.kind === 'too-early') return { poll_after_ms: 2000 };
    write('waiting-text', 'The connection is slow. Your place is kept, and we keep trying.');
    return { poll_after_ms: 3000 };
  }
}

function stand({ ahead, place, eta_seconds: eta, sale, likely_until: likely, message }) {
  tell(message);
  if (place === null) return standInLobby();
  joinedAhead ??= ahead;
  write('place', place.toLocaleString());
  write('ahead', ahead.toLocaleString());
  write('eta', eta ? span(eta) : 'not known yet');
  at('progress').value = joinedAhead > 0 ? 1 - ahead / joinedAhead : 1;
  const isLate = likely !== null && place > likely;
  const text = {
    open: isLate ? 'So many are before you that everything will probably be sold by your turn.' : ahead ? '' : 'You are next.',
    paused: 'The sale is paused. Your place is kept.',
    lobby: 'The sale has not opened yet.',
    sold_out: 'Everything is sold or held. You are called if seats come back.',
    closed: 'The sale is closed.',
  };
  write('waiting-text', text[sale] ?? '');
  document.title = `${ahead.toLocaleString()} ahead · ${event.name}`;
}

/** Before the lottery nobody has a place. */
function standInLobby() {
  write('place', 'drawn at the opening');
  write('ahead', '–');
  write('eta', 'not known yet');
  at('progress').value = 0;
  write('waiting-text', 'You are in. When the sale opens, a lottery gives everybody here a place.');
  document.title = `In the lobby · ${event.name}`;
}

function span({ p50, p90 }) {
  const [soon, late] = [duration(p50), duration(p90)];
  return soon === late ? late : `${soon} to ${late}`;
}

async function claim(token) {
  for (;;) {
    try {
      const { pass, expires_at: until } = await call('POST', `/api/events/${eventId}/pass`, { body: {}, headers: { 'onsale-queue-token': token } });
      sessionStorage.setItem(PASS, JSON.stringify({ pass, until }));
      return shop();
    } catch (refused) {
      const mayComeBack = [0, 429, 503].includes(refused.status) || refused.kind === 'not-called';
      if (!mayComeBack) {
        drop(TOKEN);
        problem(refused.message);
        return door();
      }
      write('waiting-text', 'It is your turn. You are let in in a moment…');
      await pause(1000);
    }
  }
}

/** The pass this tab holds, or null. */
function heldPass() {
  const held = JSON.parse(sessionStorage.getItem(PASS) || 'null');
  return held && new Date(held.until) > new Date() ? held : null;
}

function shop() {
  const { until } = heldPass();
  write('pass-until', clock(until));
  document.title = `It’s your turn · ${event.name}`;
  show('shop', SECTIONS);
  stock().catch(() => {});
}

async function book() {
  const held = heldPass();
  if (!held) {
    drop(PASS);
    drop(TOKEN);
    door();
    throw new Error('Your time to choose ran out. You can join the queue again.');
  }
  const body = { event_id: Number(eventId), user_id: session().account_id, tickets: Number(at('tickets').value) };
  if (at('section').value) body.section_id = Number(at('section').value);
  const headers = { 'onsale-pass': held.pass, 'idempotency-key': crypto.randomUUID() };
  const { booking } = await call('POST', '/api/bookings', { body, headers });
  location.assign(`/bookings/${booking.id}`);
}

at('sign-in-form').addEventListener('submit', (submit) => {
  submit.preventDefault();
  const isNew = submit.submitter?.value !== 'known';
  attempt(async () => {
    await signIn(at('email').value, at('password').value, isNew);
    attempt(door);
  }, submit.submitter);
});
at('join').addEventListener('click', ({ currentTarget }) => attempt(join, currentTarget));
at('leave').addEventListener('click', ({ currentTarget }) =>
  attempt(async () => {
    const token = sessionStorage.getItem(TOKEN);
    await call('DELETE', `/api/events/${eventId}/queue/me`, { headers: { 'onsale-queue-token': token } });
    drop(TOKEN);
    attempt(door);
  }, currentTarget),
);
at('book').addEventListener('submit', (submit) => {
  submit.preventDefault();
  attempt(book, submit.submitter);
});

attempt(async () => {
  await describe();
  // The sale goes on without it.
  refunds().catch(() => {});
  stock().catch(() => {});
  if (heldPass()) return shop();
  if (session() && sessionStorage.getItem(TOKEN)) return wait();
  await door();
});
