// Calls to the API, the session, formatting, and helpers for the DOM. A session belongs to the
// browser: all tabs share it, and it survives a restart.

import { CURRENCIES } from './currencies.js';

const SESSION = 'onsale.session';
const LAST_ACCOUNT = 'onsale.account';
const PLACES = /^onsale\.(queue|standing|pass|order)\./;
const RENEWAL_TRIES = 5;
const LONGEST_BACKOFF = 15000;

/** A request that failed; the message is for the person. */
export class Refused extends Error {
  constructor(status, problem, retryAfter = null) {
    super(problem.detail || problem.title || `The server answered ${status}.`);
    this.status = status;
    this.kind = (problem.type || '').split('/').pop();
    this.problem = problem;
    /** `Retry-After` in milliseconds, or null. */
    this.retryAfter = retryAfter;
  }

  /**
   * Whether the same request may succeed later: there was no answer, the server was busy, or an
   * earlier try of this request is still running.
   */
  get isPassing() {
    return [0, 429, 500, 502, 503, 504].includes(this.status) || this.kind === 'idempotency-key-in-progress';
  }
}

/** The session of this browser, or null. */
export function session() {
  return JSON.parse(localStorage.getItem(SESSION) || 'null');
}

/** Stores a session, with the idempotency key of its next renewal, shared by all tabs and tries. */
function keep(answer) {
  localStorage.setItem(SESSION, JSON.stringify({ ...answer.session, renewal: randomKey() }));
}

/** A random idempotency key. `crypto.randomUUID` exists on secure origins only. */
export function randomKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, '0')).join('');
}

let clockOffset = 0;

/** The server's time in milliseconds; the device's clock may be minutes off. */
export const now = () => Date.now() + clockOffset;

/** Measures the clock's offset by the `Date` of an answer that no cache has held. */
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

/**
 * Sends a request and returns the response, renewing the session when its token has expired.
 *
 * @param {string} method
 * @param {string} path
 * @param {{ body?: object, headers?: Record<string, string> }} [options]
 */
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

/**
 * Calls the API and returns the parsed body.
 *
 * @param {string} method
 * @param {string} path
 * @param {{ body?: object, headers?: Record<string, string> }} [options]
 */
export async function call(method, path, options) {
  const answer = await send(method, path, options);
  return answer.status === 204 ? {} : answer.json();
}

let renewal = null;

/** Renews, single-flight within the tab and, where the browser has locks, across its tabs. */
function renewed(stale) {
  const renew = () => renewUnlessDone(stale);
  renewal ??= (navigator.locks ? navigator.locks.request('onsale.renewal', renew) : renew()).finally(() => {
    renewal = null;
  });
  return renewal;
}

/**
 * Renews the session. Only a 401 ends it: a lost answer, an outage or a limit leaves it as it is. All
 * tries and all tabs use one idempotency key.
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

/** Waits for `Retry-After`, else by exponential backoff with jitter; ends early once online. */
export function pauseBefore(tries, failure) {
  const backoff = Math.min(LONGEST_BACKOFF, 500 * 2 ** tries) * (0.5 + Math.random() / 2);
  return pauseOrOnline(failure.retryAfter ?? backoff);
}

/**
 * Waits; ends early when the network is back.
 *
 * @param {number} milliseconds
 * @returns {Promise<void>}
 */
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

/**
 * Retries an action until it succeeds or fails for good; `trouble` gets each passing failure.
 *
 * @param {() => Promise<any>} action
 * @param {(failure: Refused) => void} [trouble]
 */
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

/** Signs in, or up with `isNew`. */
export async function signIn(email, password, isNew) {
  keep(await call('POST', isNew ? '/api/accounts' : '/api/sessions', { body: { email, password } }));
  const { account_id: account } = session();
  if (stored(LAST_ACCOUNT) !== account) forgetPlaces();
  store(LAST_ACCOUNT, account);
}

/** Removes stored places and passes, which belong to an account. */
function forgetPlaces() {
  for (const key of Object.keys(localStorage)) if (PLACES.test(key)) localStorage.removeItem(key);
}

/** Ends the session here and on the server, and removes stored places and passes. */
export async function signOut() {
  const signed = session();
  localStorage.removeItem(SESSION);
  forgetPlaces();
  if (signed) await call('DELETE', '/api/sessions', { body: { refresh_token: signed.refresh_token } }).catch(() => {});
}

/** The stored value of a key, or null. */
export const stored = (key) => JSON.parse(localStorage.getItem(key) || 'null');

/** Stores a value for all tabs; null removes it. */
export function store(key, value) {
  if (value === null) localStorage.removeItem(key);
  else localStorage.setItem(key, JSON.stringify(value));
}

export const pause = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));

/** The time left until a moment of the server's clock: seconds, and text such as `4:09`. */
export function timeLeft(until) {
  const seconds = Math.max(0, Math.floor((Date.parse(until) - now()) / 1000));
  return { seconds, text: `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, '0')}` };
}

/** Seconds left at which a countdown is announced to screen readers. */
const ANNOUNCED = [120, 30];

/**
 * Counts down to a moment of the server's clock: calls `draw` every second, `say` at the announced
 * marks, and `over` once at the end. Returns a function that stops it.
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

/** Formats money by the server's decimals; browsers have others for some currencies. */
export function money({ amount_minor: minor, currency }) {
  if (minor === 0) return 'free';
  const [digits, ofWhole] = CURRENCIES[currency] ?? [2, 2];
  const unit = 10 ** digits;
  const shown = minor % unit === 0 ? ofWhole : digits;
  const decimals = { minimumFractionDigits: shown, maximumFractionDigits: shown };
  return new Intl.NumberFormat(undefined, { style: 'currency', currency: currency.toUpperCase(), ...decimals }).format(
    minor / unit,
  );
}

/** @type {Intl.DateTimeFormatOptions} */
const MOMENT = { weekday: 'long', day: 'numeric', month: 'long', year: 'numeric', hour: 'numeric', minute: '2-digit' };

/** Formats a moment in a time zone, and names the zone where the visitor's clock shows another time. */
export function moment(text, timeZone) {
  const format = (more) => new Intl.DateTimeFormat(undefined, { ...MOMENT, ...more }).format(new Date(text));
  const there = format({ timeZone });
  return there === format({}) ? there : format({ timeZone, timeZoneName: 'short' });
}

/**
 * A text of somebody else's between the marks of a bidirectional isolate, for where no `<bdi>` can be: a
 * name in Hebrew or Arabic does not reorder what stands beside it.
 */
export const isolated = (text) => `\u2068${text}\u2069`;

/** A `<bdi>` with this text. */
export function bdi(text) {
  const element = document.createElement('bdi');
  element.textContent = text;
  return element;
}

/** Date and place of an event in one line. */
export function whenAndWhere(event) {
  const where = [event.venue, event.city].filter(Boolean).map(isolated);
  return [moment(event.date, event.time_zone), ...where].join(' · ');
}

/** Hour and minute of a moment in the visitor's time zone. */
export function clock(text) {
  return new Date(text).toLocaleTimeString(undefined, { hour: 'numeric', minute: '2-digit' });
}

/** A number with its noun, singular or plural. */
export const count = (number, one, many) => `${number.toLocaleString()} ${number === 1 ? one : many}`;

/** Formats a duration in seconds, rounded. */
export function duration(seconds) {
  if (seconds < 60) return 'less than a minute';
  if (seconds < 5400) return count(Math.round(seconds / 60), 'minute', 'minutes');
  return `${(seconds / 3600).toLocaleString(undefined, { maximumFractionDigits: 1 })} hours`;
}

/**
 * The element with this id.
 *
 * @returns {any}
 */
export const at = (id) => document.getElementById(id);

/** Sets a text if it differs, so that a live region does not announce it again. */
export function write(id, text) {
  if (at(id).textContent !== text) at(id).textContent = text;
}

/** Shows an error, or hides it when there is no text. */
export function problem(text) {
  write('problem', text || '');
  at('problem').hidden = !text;
}

/** Runs an action with its button disabled, and shows its error. */
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

/** Fills a list with an item per thing. */
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
 * Shows one of several sections and hides the others; null hides all. Focus moves to its heading,
 * for keyboards and screen readers, except at the first call.
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
