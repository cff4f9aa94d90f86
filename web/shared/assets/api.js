// Calls to the API, the session, and words for people. A session belongs to the browser: every tab
// has it, and it survives a restart.

import { CURRENCIES } from './currencies.js';

const SESSION = 'onsale.session';
const LAST_ACCOUNT = 'onsale.account';
const PLACES = /^onsale\.(queue|standing|pass|order)\./;
const RENEWAL_TRIES = 5;
const LONGEST_BACKOFF = 15000;

/** A refusal of the server, in words for the person. */
export class Refused extends Error {
  constructor(status, problem, retryAfter = null) {
    super(problem.detail || problem.title || `The server answered ${status}.`);
    this.status = status;
    this.kind = (problem.type || '').split('/').pop();
    this.problem = problem;
    /** How long the server asked to wait, in milliseconds, or null. */
    this.retryAfter = retryAfter;
  }

  /**
   * Whether the same request may succeed later: no answer came, the server was busy, or it is still
   * at work on an earlier try of this request.
   */
  get isPassing() {
    return [0, 429, 500, 502, 503, 504].includes(this.status) || this.kind === 'idempotency-key-in-progress';
  }
}

/** The session of this browser, or null. */
export function session() {
  return JSON.parse(localStorage.getItem(SESSION) || 'null');
}

/** With the key under which the next renewal is asked for, by whichever tab and however often. */
function keep(answer) {
  localStorage.setItem(SESSION, JSON.stringify({ ...answer.session, renewal: randomKey() }));
}

/** A random idempotency key. `crypto.randomUUID` exists on secure origins only. */
export function randomKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, '0')).join('');
}

let clockOffset = 0;

/** The server's time in milliseconds: the clock of a phone may be minutes off. */
export const now = () => Date.now() + clockOffset;

/** Learns the server's time from an answer that no cache has held. */
function readClock(answer) {
  const date = Date.parse(answer.headers.get('date'));
  const isCached = answer.headers.has('age') || (answer.headers.get('cache-control') || '').includes('public');
  if (!isCached && Number.isFinite(date)) clockOffset = date - Date.now();
}

function retryAfter(answer) {
  const seconds = Number(answer.headers.get('retry-after'));
  return seconds > 0 ? seconds * 1000 : null;
}

async function refused(answer) {
  return new Refused(answer.status, await answer.json().catch(() => ({})), retryAfter(answer));
}

async function attemptOnce(method, path, body, headers) {
  const signed = session();
  try {
    const answer = await fetch(path, {
      method,
      headers: {
        ...(body ? { 'content-type': 'application/json' } : {}),
        ...(signed ? { authorization: `Bearer ${signed.access_token}` } : {}),
        ...headers,
      },
      body: body ? JSON.stringify(body) : undefined,
    });
    readClock(answer);
    return answer;
  } catch {
    throw new Refused(0, { detail: 'The server can’t be reached. Check your connection; we keep trying.' });
  }
}

/** Sends a request and answers the response, renewing the session when its token ran out. */
export async function send(method, path, { body, headers = {} } = {}) {
  const signed = session();
  let answer = await attemptOnce(method, path, body, headers);
  if (answer.ok) return answer;
  const failure = await refused(answer);
  if (failure.kind !== 'signed-out' || !signed) throw failure;
  if (!(await renewed(signed))) throw failure;
  answer = await attemptOnce(method, path, body, headers);
  if (answer.ok) return answer;
  throw await refused(answer);
}

/** Calls the API; `headers` may carry a queue token or a pass. */
export async function call(method, path, options) {
  const answer = await send(method, path, options);
  return answer.status === 204 ? {} : answer.json();
}

let renewal = null;

/** Single-flight within the tab, and where the browser has locks, among its tabs. */
function renewed(stale) {
  const renew = () => renewUnlessDone(stale);
  renewal ??= (navigator.locks ? navigator.locks.request('onsale.renewal', renew) : renew()).finally(() => {
    renewal = null;
  });
  return renewal;
}

/**
 * Renews the session. Only the server's own word that it is over ends it: a lost answer, an
 * outage or a limit leaves it as it is. All tries and all tabs ask under one idempotency key.
 */
async function renewUnlessDone(stale) {
  for (let tries = 1; ; tries++) {
    const signed = session();
    if (!signed) return false;
    if (signed.access_token !== stale.access_token) return true;
    const failure = await askToRenew(signed);
    if (!failure) return true;
    if (failure.status === 401) {
      if (session()?.refresh_token === signed.refresh_token) localStorage.removeItem(SESSION);
      return false;
    }
    if (!failure.isPassing || tries === RENEWAL_TRIES) throw failure;
    await pauseBefore(tries, failure);
  }
}

async function askToRenew(signed) {
  try {
    const headers = { 'idempotency-key': signed.renewal };
    const answer = await attemptOnce('POST', '/api/sessions/refresh', { refresh_token: signed.refresh_token }, headers);
    if (!answer.ok) return refused(answer);
    keep(await answer.json());
    return null;
  } catch (failure) {
    return failure instanceof Refused ? failure : new Refused(0, {});
  }
}

/** Waits as long as the server asked, else by exponential backoff with jitter; less once online. */
export function pauseBefore(tries, failure) {
  const backoff = Math.min(LONGEST_BACKOFF, 500 * 2 ** tries) * (0.5 + Math.random() / 2);
  return pauseOrOnline(failure.retryAfter ?? backoff);
}

/** Waits, and ends early when the network is back. */
export function pauseOrOnline(milliseconds) {
  return new Promise((done) => {
    const end = () => {
      clearTimeout(timer);
      removeEventListener('online', end);
      done();
    };
    const timer = setTimeout(end, milliseconds);
    addEventListener('online', end);
  });
}

/** Repeats an action until it succeeds or is refused for good; `trouble` hears of each failure. */
export async function patiently(action, trouble = () => {}) {
  for (let tries = 1; ; tries++) {
    try {
      return await action();
    } catch (failure) {
      if (!failure.isPassing) throw failure;
      trouble(failure);
      await pauseBefore(tries, failure);
    }
  }
}

/** Signs in, making the account first when it is new. */
export async function signIn(email, password, isNew) {
  keep(await call('POST', isNew ? '/api/accounts' : '/api/sessions', { body: { email, password } }));
  const { account_id: account } = session();
  if (stored(LAST_ACCOUNT) !== account) forgetPlaces();
  store(LAST_ACCOUNT, account);
}

/** Places and passes belong to the account that got them. */
function forgetPlaces() {
  for (const key of Object.keys(localStorage)) if (PLACES.test(key)) localStorage.removeItem(key);
}

/** Ends the session here and on the server, and forgets the places and passes it held. */
export async function signOut() {
  const signed = session();
  localStorage.removeItem(SESSION);
  forgetPlaces();
  if (signed) await call('DELETE', '/api/sessions', { body: { refresh_token: signed.refresh_token } }).catch(() => {});
}

/** What is stored under a key, or null. */
export const stored = (key) => JSON.parse(localStorage.getItem(key) || 'null');

/** Stores a value for every tab, or with null forgets it. */
export function store(key, value) {
  if (value === null) localStorage.removeItem(key);
  else localStorage.setItem(key, JSON.stringify(value));
}

/** Waits. */
export const pause = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));

/** Minutes and seconds left until a moment of the server's clock, `4:09`; `0:00` when it is over. */
export function timeLeft(until) {
  const seconds = Math.max(0, Math.floor((new Date(until) - now()) / 1000));
  return { seconds, text: `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, '0')}` };
}

/** Moments in a countdown at which it is read out, in seconds. */
const ANNOUNCED = [120, 30];

/**
 * A countdown to a moment of the server's clock. `draw` shows the time left each second; a screen
 * reader hears it at two minutes and at thirty seconds, through `say`; `over` runs once at its end.
 * Returns what stops it.
 */
export function countDown(until, { draw, say, over }) {
  let last = Infinity;
  const tick = () => {
    const { seconds, text } = timeLeft(until);
    draw(text);
    if (ANNOUNCED.some((mark) => last > mark && seconds <= mark && seconds > 0 && last !== Infinity)) say(text);
    last = seconds;
    if (seconds > 0) return;
    clearInterval(timer);
    over();
  };
  const timer = setInterval(tick, 1000);
  tick();
  return () => clearInterval(timer);
}

/** Money for people, in the unit that the server counts; browsers know other decimals for some currencies. */
export function money({ amount_minor: minor, currency }) {
  if (minor === 0) return 'free';
  const [digits, ofWhole] = CURRENCIES[currency] ?? [2, 2];
  const unit = 10 ** digits;
  const shown = minor % unit === 0 ? ofWhole : digits;
  const decimals = { minimumFractionDigits: shown, maximumFractionDigits: shown };
  return new Intl.NumberFormat(undefined, { style: 'currency', currency: currency.toUpperCase(), ...decimals }).format(minor / unit);
}

/** A moment in the time zone of the event. */
export function moment(text, timeZone) {
  return new Intl.DateTimeFormat(undefined, { dateStyle: 'full', timeStyle: 'short', timeZone }).format(new Date(text));
}

/** When and where an event is, in one line. */
export function whenAndWhere(event) {
  return [moment(event.date, event.time_zone), event.venue, event.city].filter(Boolean).join(' · ');
}

/** The hour and minute of a moment, here. */
export function clock(text) {
  return new Date(text).toLocaleTimeString(undefined, { hour: 'numeric', minute: '2-digit' });
}

/** One or many of a thing. */
export const count = (number, one, many) => `${number.toLocaleString()} ${number === 1 ? one : many}`;

/** A stretch of time for people. */
export function duration(seconds) {
  if (seconds < 60) return 'less than a minute';
  if (seconds < 5400) return count(Math.round(seconds / 60), 'minute', 'minutes');
  return `${(seconds / 3600).toLocaleString(undefined, { maximumFractionDigits: 1 })} hours`;
}

/** The element with this id. */
export const at = (id) => document.getElementById(id);

/** Writes a text; one that is already there is left alone, so that it is not read out again. */
export function write(id, text) {
  if (at(id).textContent !== text) at(id).textContent = text;
}

/** Says what went wrong, or that nothing does. */
export function problem(text) {
  write('problem', text || '');
  at('problem').hidden = !text;
}

/** Runs an action of the person with its button resting, and says what went wrong. */
export async function attempt(action, button) {
  problem('');
  if (button) button.disabled = true;
  try {
    await action();
  } catch (refused) {
    problem(refused.message);
  } finally {
    if (button) button.disabled = false;
  }
}

/** Fills a list with one element for each thing. */
export function list(id, things, element) {
  at(id).replaceChildren(
    ...things.map((thing) => {
      const item = document.createElement('li');
      item.append(element(thing));
      return item;
    }),
  );
}

let shown;

/**
 * Shows one of several sections and hides the others. The focus follows to its heading, so that the
 * keyboard and a screen reader go on from there; at the first showing it stays where the reader is.
 * `null` hides all.
 */
export function show(id, all) {
  for (const other of all) at(other).hidden = other !== id;
  const isMove = shown !== undefined && shown !== id;
  shown = id;
  if (!isMove || id === null) return;
  const heading = at(id).querySelector('h1, h2');
  heading.tabIndex = -1;
  heading.focus();
}
