// One event: its queue, and choosing seats at one's turn.

import {
  at,
  attempt,
  bdi,
  call,
  clock,
  count,
  countDown,
  duration,
  isolated,
  list,
  moment,
  money,
  now,
  patiently,
  pause,
  pauseBefore,
  pauseOrOnline,
  problem,
  randomKey,
  session,
  show,
  store,
  stored,
  whenAndWhere,
  write,
} from './api.js';
import { askToSignIn } from './sign-in.js';

const eventId = location.pathname.split('/')[2];
const SECTIONS = ['door', 'waiting', 'shop'];
/** States of a sale in which its queue can be joined. */
const JOINABLE = ['lobby', 'open', 'paused'];
const TOKEN = `onsale.queue.${eventId}`;
const PASS = `onsale.pass.${eventId}`;
/** The last standing, and when the next poll is due. */
const STANDING = `onsale.standing.${eventId}`;
/** A booking request without an answer, with its idempotency key. */
const ORDER = `onsale.order.${eventId}`;
const LONGEST_WATCH = 30000;
const STOCK_EVERY = 5000;

let event = null;
/** Number of the running loop (door, wait, claim or shop); starting another one ends it. */
let latestLoop = 0;
let stopCountdown = () => {};
/** The number whose progress is shown, with the first and the lowest count of people ahead. */
let progress = null;
/** What a running join waits for, shown at the door in place of the state of the sale; or empty. */
let joining = '';

async function describe() {
  ({ event } = await patiently(
    () => call('GET', `/api/events/${eventId}`),
    (failure) => problem(failure.message),
  ));
  problem('');
  document.title = `${isolated(event.name)} · Onsale`;
  write('name', event.name);
  write('when', whenAndWhere(event));
  write('about', event.description);
  list('prices', event.sections, price);
  const anywhere = new Option('Best available, anywhere', '');
  at('section').replaceChildren(
    anywhere,
    ...event.sections.map((s) => new Option(`${isolated(s.name)}, ${money(s.tier.price)}`, s.id)),
  );
  const most = Math.min(20, event.max_tickets_per_account);
  at('tickets').max = most;
  at('tickets').value = Math.min(2, most);
  write('most', `At most ${most} for each person.`);
}

/** Shows the refund policy before anything is bought. */
async function refunds() {
  const { refund_policy: policy } = await call('GET', `/api/events/${eventId}/refund-policy`);
  const paid = event.sections.find(({ tier }) => tier.price.amount_minor > 0);
  if (!paid) return;
  const { until, fee_percent: percent, fee_minor: minor } = policy;
  const fee = minor && money({ amount_minor: minor, currency: paid.tier.price.currency });
  const kept = [percent && `${percent} %`, fee].filter(Boolean).join(' and ');
  const end = until ? ` by ${moment(until, event.time_zone)}` : '';
  const after = until ? ' After that nothing is refunded.' : '';
  const back = kept ? `you get a refund less ${kept} of each booking` : 'you get a full refund';
  write('refunds', `If you cancel${end}, ${back}.${after} If the event is cancelled, you get a full refund.`);
}

function price({ name, tier }) {
  const both = document.createDocumentFragment();
  both.append(bdi(name), bdi(money(tier.price)));
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
    scheduled: 'The sale has not opened yet.',
    lobby:
      'The sale opens soon. You can join now. The order of everybody who joins before the opening is drawn by lottery, so there is no hurry.',
    open: rate ? `${waiters} Up to ${rate.toLocaleString()} are let in each minute.` : waiters,
    paused: 'The sale is paused. You can join, and will be called when it resumes.',
    closed: 'The sale is closed.',
    sold_out: 'Everything is sold. If seats come back, those in the queue are called.',
  }[state];
}

/** When the sale and its lobby open, in the time zone of the event. */
function opening({ state, opens_at: opens, lobby_opens_at: lobby }) {
  if (!opens || !['scheduled', 'lobby'].includes(state)) return '';
  const sale = `It opens ${moment(opens, event.time_zone)}.`;
  return state === 'scheduled' && lobby ? `${sale} You can join from ${moment(lobby, event.time_zone)} on.` : sale;
}

/** Shows the state of the queue, signed in or not, until the person joins or the sale ends. */
async function door() {
  const loop = ++latestLoop;
  stopCountdown();
  show('door', SECTIONS);
  for (let failures = 0; loop === latestLoop;) {
    try {
      const queue = await call('GET', `/api/events/${eventId}/queue`);
      if (loop !== latestLoop) return;
      if (failures) problem('');
      failures = 0;
      standAtTheDoor(queue);
      if (queue.state === 'closed') return;
      await pauseOrOnline(Math.min(queue.poll_after_ms, LONGEST_WATCH, untilChange(queue)));
    } catch (failure) {
      if (loop !== latestLoop) return;
      if (!failure.isPassing) throw failure;
      problem(failure.message);
      await pauseBefore(++failures, failure);
    }
  }
}

function standAtTheDoor(queue) {
  tell(queue.message);
  write('door-text', joining || [atTheDoor(queue), opening(queue)].filter(Boolean).join(' '));
  const mayJoin = JOINABLE.includes(queue.state);
  at('join').hidden = !mayJoin || !session();
  write(
    'sign-in-title',
    mayJoin || queue.state === 'scheduled' ? 'Sign in to join the queue' : 'Sign in to see your place',
  );
  askToSignIn(queue.state !== 'closed', () => {
    standAtTheDoor(queue);
    return findPlace();
  });
}

/** Resumes the place of this account, whichever device joined. */
async function findPlace() {
  const me = await patiently(lookUpPlace);
  if (!me || stored(TOKEN)) return;
  if (me.state === 'claimed') {
    // Its pass may have ended, by a purchase for instance: then there is nothing to resume.
    const shops = await patiently(() => takePass(me.queue_token)).then(
      () => true,
      () => false,
    );
    if (shops) shop();
  } else if (['waiting', 'ready'].includes(me.state)) {
    store(TOKEN, me.queue_token);
    attempt(wait);
  }
}

/** The standing of the signed-in account, with its queue token; null without a place. */
async function lookUpPlace() {
  try {
    return await call('GET', `/api/events/${eventId}/queue/me`);
  } catch (failure) {
    if (failure.status === 401 || failure.status === 404) return null;
    throw failure;
  }
}

/** Milliseconds until the lobby or the sale opens, with jitter; the door polls then. */
function untilChange({ opens_at: opens, lobby_opens_at: lobby }) {
  const coming = [opens, lobby].map((time) => Date.parse(time) - now()).filter((left) => left > 0);
  return Math.min(...coming.map((left) => left + Math.random() * 1000));
}

async function join() {
  const standing = at('door-text').textContent;
  const joined = await askToJoin().finally(() => {
    joining = '';
    write('door-text', standing);
  });
  store(TOKEN, joined.queue_token);
  store(STANDING, null);
  // Not awaited, since it runs until the turn.
  attempt(wait);
}

/**
 * Joins, solving a challenge if the sale asks for proof of work. Retries while the server is busy or
 * away: joining is idempotent by account.
 */
async function askToJoin() {
  const body = {};
  for (let tries = 0; ; tries++) {
    try {
      return await patiently(() => call('POST', `/api/events/${eventId}/queue`, { body }), sayBusy);
    } catch (refused) {
      if (!refused.kind?.startsWith('challenge-') || tries === 3) throw refused;
      sayJoining('One moment: your browser is showing that it is not a robot.');
      body.challenge = await solve(
        await patiently(() => call('GET', `/api/events/${eventId}/queue/challenge`), sayBusy),
      );
    }
  }
}

function sayBusy({ status, message }) {
  sayJoining(status === 0 ? message : 'Many people are joining right now. Stay on this page: we keep trying for you.');
}

function sayJoining(text) {
  joining = text;
  write('door-text', text);
}

/** Solves a challenge in a worker. */
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

/** Removes the stored place. */
function dropPlace() {
  store(TOKEN, null);
  store(STANDING, null);
}

/** Shows the commitment of the lottery, and after the draw the link to its receipts. */
async function lottery() {
  const { lottery: known } = await call('GET', `/api/events/${eventId}/queue`);
  const { commitment, entropy_source: source, fixed, drawn } = known ?? {};
  at('lottery').hidden = !commitment || drawn?.lobby === 0;
  write('commitment', commitment ?? '');
  at('lottery-check').href = `/api/events/${eventId}/queue/lottery`;
  at('lottery-check').hidden = !drawn;
  const from = source ? `, with public entropy from: ${source}` : '';
  const people = drawn && count(drawn.lobby, 'person', 'people');
  write(
    'lottery-text',
    drawn
      ? `The order of the first ${people} was drawn when the sale opened.`
      : fixed
        ? `The order is being drawn${from}.`
        : `When the sale opens, the order of everybody who joined before is drawn by lottery${from}. This commitment fixes the draw beforehand:`,
  );
}

async function wait() {
  const loop = ++latestLoop;
  show('waiting', SECTIONS);
  lottery().catch(() => {});
  draw(stored(STANDING)?.me);
  let wasDrawn = null;
  for (;;) {
    const me = await nextStanding(loop);
    if (loop !== latestLoop) return;
    if (!me) return door();
    if (me.state === 'ready' || me.state === 'claimed') return claim();
    if (['missed', 'left', 'unknown'].includes(me.state)) {
      dropPlace();
      if (me.state === 'missed') return doorSaying('Your turn has passed. You can join again.');
      return door();
    }
    draw(me);
    const isDrawn = me.place !== null;
    if (wasDrawn !== null && isDrawn !== wasDrawn) lottery().catch(() => {});
    wasDrawn = isDrawn;
  }
}

function doorSaying(text) {
  const standing = door();
  problem(text);
  return standing;
}

/**
 * Returns the next standing when it is due; null without a place. Tabs share standings: the tab that
 * finds one due polls, and the others draw it.
 */
async function nextStanding(loop) {
  for (let failures = 0; loop === latestLoop;) {
    const token = stored(TOKEN);
    if (!token) return null;
    const last = stored(STANDING);
    const left = (last?.due ?? 0) - Date.now();
    if (left > 0) {
      draw(last.me);
      await pauseOrOnline(Math.min(left, 1000));
      continue;
    }
    const { me, failure } = await look(token);
    // The place was given up meanwhile.
    if (stored(TOKEN) !== token) continue;
    if (me) {
      store(STANDING, { me, due: Date.now() + me.poll_after_ms });
      return me;
    }
    await pauseBefore(++failures, failure);
  }
  return null;
}

/** Polls the standing. A failure is not the end of the place. */
async function look(token) {
  try {
    return { me: await call('GET', `/api/events/${eventId}/queue/me`, { headers: { 'onsale-queue-token': token } }) };
  } catch (failure) {
    if (failure.status === 401 || failure.status === 404) return { me: { state: 'unknown', poll_after_ms: 0 } };
    if (failure.kind !== 'too-early')
      write('waiting-text', 'The connection is slow. Your place is kept, and we keep trying.');
    return { failure };
  }
}

/** Draws a standing that waits; any other draws nothing. */
function draw(me) {
  if (me?.state === 'waiting') stand(me);
}

/** People ahead, never rising for one number; reset for a new one. */
function countAhead(number, counted) {
  if (progress?.number !== number) progress = { number, first: counted, least: counted };
  progress.least = Math.min(progress.least, counted);
  return progress;
}

function stand({ number, ahead: counted, place, eta_seconds: eta, sale, likely_until: likely, message }) {
  tell(message);
  if (place === null) return standInLobby();
  const { first, least: ahead } = countAhead(number, counted);
  write('place', place.toLocaleString());
  write('ahead', ahead.toLocaleString());
  write('eta', eta ? span(eta) : 'not known yet');
  at('progress').value = first > 0 ? 1 - ahead / first : 1;
  const isLate = likely !== null && place > likely;
  const text = {
    open: isLate
      ? 'So many people are ahead of you that everything will probably be sold by your turn.'
      : ahead
        ? ''
        : 'You are next.',
    paused: 'The sale is paused. Your place is kept.',
    lobby: 'The sale has not opened yet.',
    sold_out: 'Everything is sold or held. You are called if seats come back.',
    closed: 'The sale is closed.',
  };
  write('waiting-text', text[sale] ?? '');
  document.title = `${ahead.toLocaleString()} ahead · ${isolated(event.name)}`;
}

/** Draws a standing before the lottery, when nobody has a place. */
function standInLobby() {
  write('place', 'drawn at the opening');
  write('ahead', '–');
  write('eta', 'not known yet');
  at('progress').value = 0;
  write('waiting-text', 'You are in. When the sale opens, a lottery gives everybody here a place.');
  document.title = `In the lobby · ${isolated(event.name)}`;
}

function span({ p50, p90 }) {
  const [soon, late] = [duration(p50), duration(p90)];
  return soon === late ? late : `${soon} to ${late}`;
}

/** Claims the pass of a place that was called; a repeat returns the same pass. */
async function takePass(token) {
  const { pass, expires_at: until } = await call('POST', `/api/events/${eventId}/pass`, {
    body: {},
    headers: { 'onsale-queue-token': token },
  });
  store(PASS, { pass, until });
}

async function claim() {
  const loop = ++latestLoop;
  for (let failures = 0; loop === latestLoop;) {
    try {
      await takePass(stored(TOKEN));
      if (loop === latestLoop) shop();
      return;
    } catch (failure) {
      if (loop !== latestLoop) return;
      if (!failure.isPassing && failure.kind !== 'not-called') {
        dropPlace();
        return doorSaying(failure.message);
      }
      write('waiting-text', 'It is your turn. You will be let in in a moment…');
      await pauseBefore(++failures, failure);
    }
  }
}

/** The unexpired pass of this browser, or null; `until` is by the server's clock. */
function heldPass() {
  const held = stored(PASS);
  return held && Date.parse(held.until) > now() ? held : null;
}

function shop() {
  const { until } = heldPass() ?? stored(PASS);
  write('pass-until', clock(until));
  document.title = `It’s your turn · ${isolated(event.name)}`;
  show('shop', SECTIONS);
  stopCountdown();
  stopCountdown = countDown(until, {
    draw: (text) => write('pass-left', `${text} left`),
    say: (text) => write('pass-warning', `${text} left to choose.`),
    over: () => {
      forgetPass();
      doorSaying('Your time to choose ran out. Nothing was held or charged. You can join the queue again.');
    },
  });
  watchStock();
}

/** Refreshes the number of free seats while the person chooses. */
async function watchStock() {
  const loop = ++latestLoop;
  while (loop === latestLoop) {
    await stock().catch(() => {});
    await pause(STOCK_EVERY);
  }
}

function forgetPass() {
  stopCountdown();
  store(PASS, null);
  store(ORDER, null);
  dropPlace();
}

/** A booking request with its idempotency key, which is reused until there is an answer. */
function order(body) {
  const open = stored(ORDER);
  if (open && JSON.stringify(open.body) === JSON.stringify(body)) return open;
  const fresh = { body, key: randomKey() };
  store(ORDER, fresh);
  return fresh;
}

async function book() {
  const held = heldPass();
  if (!held) return;
  const body = { event_id: Number(eventId), user_id: session().account_id, tickets: Number(at('tickets').value) };
  if (at('section').value) body.section_id = Number(at('section').value);
  const { key } = order(body);
  const headers = { 'onsale-pass': held.pass, 'idempotency-key': key };
  try {
    const { booking } = await patiently(
      () => call('POST', '/api/bookings', { body, headers }),
      () => problem('The answer was lost. We are asking again for the same seats.'),
    );
    store(ORDER, null);
    location.assign(`/bookings/${booking.id}`);
  } catch (failure) {
    store(ORDER, null);
    throw failure;
  }
}

/** Returns the pass, so that its slot goes to the next in line at once. */
async function leaveShop() {
  const held = heldPass();
  if (held) await call('DELETE', `/api/events/${eventId}/pass`, { headers: { 'onsale-pass': held.pass } });
  forgetPass();
  door().catch((failure) => problem(failure.message));
}

// Another tab joined, or found the place: this one shows it, too.
addEventListener('storage', ({ key, newValue }) => {
  const isPlace = key === TOKEN && newValue && newValue !== 'null';
  if (isPlace && session() && !at('door').hidden) attempt(wait);
});
at('join').addEventListener('click', ({ currentTarget }) => attempt(join, currentTarget));
at('leave').addEventListener('click', ({ currentTarget }) => {
  if (!confirm('Leave the queue? Your place is lost, and joining again puts you at the end.')) return;
  attempt(async () => {
    await call('DELETE', `/api/events/${eventId}/queue/me`, { headers: { 'onsale-queue-token': stored(TOKEN) } });
    dropPlace();
    attempt(door);
  }, currentTarget);
});
at('done').addEventListener('click', ({ currentTarget }) => {
  if (!confirm('Leave without buying? The next in line gets your turn.')) return;
  attempt(leaveShop, currentTarget);
});
at('book').addEventListener('submit', (submit) => {
  submit.preventDefault();
  attempt(book, submit.submitter);
});

attempt(async () => {
  await describe();
  // Optional: the page works without them.
  refunds().catch(() => {});
  stock().catch(() => {});
  if (session() && heldPass()) return shop();
  if (session() && stored(TOKEN)) return wait();
  // The door shows an outage.
  if (session()) findPlace().catch(() => {});
  await door();
});
