// Calls to the API, who is signed in, and words for people. A sign-in lives as long as the tab.

const SESSION = 'onsale.session';

/** A refusal of the server, in words for the person. */
export class Refused extends Error {
  constructor(status, problem) {
    super(problem.detail || problem.title || `The server answered ${status}.`);
    this.status = status;
    this.kind = (problem.type || '').split('/').pop();
    this.problem = problem;
  }
}

/** The session of this tab, or null. */
export function session() {
  return JSON.parse(sessionStorage.getItem(SESSION) || 'null');
}

function keep(answer) {
  sessionStorage.setItem(SESSION, JSON.stringify(answer.session));
}

async function attemptOnce(method, path, body, headers) {
  const signed = session();
  try {
    return await fetch(path, {
      method,
      headers: {
        ...(body ? { 'content-type': 'application/json' } : {}),
        ...(signed ? { authorization: `Bearer ${signed.access_token}` } : {}),
        ...headers,
      },
      body: body ? JSON.stringify(body) : undefined,
    });
  } catch {
    throw new Refused(0, { detail: 'The server can’t be reached. Check your connection; we keep trying.' });
  }
}

/** Sends a request and answers the response, renewing the sign-in once when it ran out. */
export async function send(method, path, { body, headers = {} } = {}) {
  let answer = await attemptOnce(method, path, body, headers);
  if (answer.ok) return answer;
  let problem = await answer.json().catch(() => ({}));
  if (problem.type?.endsWith('/signed-out') && (await renew())) {
    answer = await attemptOnce(method, path, body, headers);
    if (answer.ok) return answer;
    problem = await answer.json().catch(() => ({}));
  }
  throw new Refused(answer.status, problem);
}

/** Calls the API; `headers` may carry a queue token or a pass. */
export async function call(method, path, options) {
  const answer = await send(method, path, options);
  return answer.status === 204 ? {} : answer.json();
}

let renewal = null;

/** A refresh token serves once, so requests that find the session ended share one renewal. */
function renew() {
  const signed = session();
  if (!signed) return false;
  renewal ??= refresh(signed).finally(() => {
    renewal = null;
  });
  return renewal;
}

async function refresh(signed) {
  sessionStorage.removeItem(SESSION);
  try {
    keep(await call('POST', '/api/sessions/refresh', { body: { refresh_token: signed.refresh_token } }));
    return true;
  } catch {
    return false;
  }
}

/** Signs in, making the account first when it is new. */
export async function signIn(email, password, isNew) {
  keep(await call('POST', isNew ? '/api/accounts' : '/api/sessions', { body: { email, password } }));
}

/** Ends the session here and on the server. */
export async function signOut() {
  const signed = session();
  sessionStorage.removeItem(SESSION);
  if (signed) await call('DELETE', '/api/sessions', { body: { refresh_token: signed.refresh_token } }).catch(() => {});
}

/** Waits. */
export const pause = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));

/** Money for people. */
export function money({ amount_minor: minor, currency }) {
  if (minor === 0) return 'free';
  const format = new Intl.NumberFormat(undefined, { style: 'currency', currency: currency.toUpperCase() });
  return format.format(minor / 10 ** format.resolvedOptions().maximumFractionDigits);
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
