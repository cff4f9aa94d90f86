// Calls to the public API, and who is signed in. A sign-in lives as long as the tab.

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

/** Calls the API; `headers` may carry a queue token or a pass. */
export async function call(method, path, { body, headers = {} } = {}) {
  const signed = session();
  const answer = await fetch(path, {
    method,
    headers: {
      ...(body ? { 'content-type': 'application/json' } : {}),
      ...(signed ? { authorization: `Bearer ${signed.access_token}` } : {}),
      ...headers,
    },
    body: body ? JSON.stringify(body) : undefined,
  });
  const data = answer.status === 204 ? {} : await answer.json().catch(() => ({}));
  if (answer.ok) return data;
  if (answer.status === 401 && data.type?.endsWith('/signed-out') && signed && (await refresh(signed))) {
    return call(method, path, { body, headers });
  }
  throw new Refused(answer.status, data);
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

/** Signs in, making the account when there is none. */
export async function signIn(email, password, isNew) {
  keep(await call('POST', isNew ? '/api/accounts' : '/api/sessions', { body: { email, password } }));
}

/** Waits. */
export const pause = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));

/** Money for people. */
export function money({ amount_minor: minor, currency }) {
  const format = new Intl.NumberFormat(undefined, { style: 'currency', currency: currency.toUpperCase() });
  return format.format(minor / 10 ** format.resolvedOptions().maximumFractionDigits);
}

/** A moment in the time zone of the event. */
export function moment(text, timeZone) {
  return new Intl.DateTimeFormat(undefined, { dateStyle: 'full', timeStyle: 'short', timeZone }).format(new Date(text));
}

/** A stretch of time for people. */
export function duration(seconds) {
  if (seconds < 60) return `${Math.max(1, Math.round(seconds))} seconds`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} minutes`;
  return `${(seconds / 3600).toFixed(1)} hours`;
}

/** The element with this id. */
export const at = (id) => document.getElementById(id);

/** Shows one of several sections and hides the others. */
export function show(id, all) {
  for (const other of all) at(other).hidden = other !== id;
}
