// A running Onsale and a browser. The environment has PUBLIC, STAFF, ADMIN and PASSWORD, as in the
// README, MAIL for the list of mails, and CHROMIUM for a browser in another place. Addresses are
// confirmed by a code.

import assert from 'node:assert/strict';
import { chromium } from 'playwright-core';

export const { PUBLIC, STAFF, ADMIN, PASSWORD, MAIL } = process.env;
const PHONE = { width: 390, height: 844 };
/** Longest wait for a condition, in milliseconds. */
const LIMIT = 15000;
const BUYER_PASSWORD = 'correct horse battery';

let browser = null;

export async function openBrowser() {
  browser = await chromium.launch({
    executablePath: process.env.CHROMIUM || '/usr/bin/chromium',
    args: [
      '--no-sandbox',
      '--disable-gpu',
      '--disable-background-networking',
      '--host-resolver-rules=MAP onsale.test 127.0.0.1',
    ],
  });
}

export const closeBrowser = () => browser.close();

/** A browser context with empty storage. */
export async function visitor(options = {}) {
  const context = await browser.newContext({ viewport: PHONE, ...options });
  context.setDefaultTimeout(LIMIT);
  const close = context.close.bind(context);
  context.close = async () => {
    // A request that a route is still forwarding fails with the context, not the test.
    await context.unrouteAll({ behavior: 'ignoreErrors' });
    await close();
  };
  return context;
}

export async function api(base, method, path, { body, token, headers = {} } = {}) {
  const answer = await fetch(`${base}${path}`, {
    method,
    headers: { 'content-type': 'application/json', ...(token ? { authorization: `Bearer ${token}` } : {}), ...headers },
    body: body ? JSON.stringify(body) : undefined,
  });
  const text = await answer.text();
  assert.ok(answer.ok, `${method} ${path}: ${answer.status} ${text}`);
  return text ? JSON.parse(text) : {};
}

let staffToken = null;

export async function staff(method, path, body) {
  staffToken ??= (await api(STAFF, 'POST', '/api/sessions', { body: { email: ADMIN, password: PASSWORD } })).session
    .access_token;
  return api(STAFF, method, path, { body, token: staffToken });
}

/** Waits for a condition. */
export async function until(question, what) {
  const end = Date.now() + LIMIT;
  for (;;) {
    if (await question()) return;
    assert.ok(Date.now() < end, `not in ${LIMIT} ms: ${what}`);
    await new Promise((done) => setTimeout(done, 50));
  }
}

/** Creates an event on sale with these settings, and returns its id. */
export async function event(sale = {}, more = {}) {
  const body = {
    name: 'Garden party',
    date: '2031-06-01T18:00:00Z',
    time_zone: 'Europe/Brussels',
    capacity: 50,
    price: { amount_minor: 2500, currency: 'eur' },
    ...more,
  };
  const { event: made } = await staff('POST', '/api/events', body);
  const { sale: settings } = await staff('PUT', `/api/sales/${made.id}`, { rate_per_minute: 6000, ...sale });
  const isThere = async () => {
    const answer = await fetch(`${PUBLIC}/api/events/${made.id}/queue`);
    if (!answer.ok) return false;
    const queue = await answer.json();
    return queue.rate_per_minute === settings.rate_per_minute && queue.state === settings.state;
  };
  await until(isThere, 'the sale is known to the queue');
  const isStocked = async () =>
    (await (await fetch(`${PUBLIC}/api/events/${made.id}/availability`)).json()).available === made.capacity;
  await until(isStocked, 'the seats are on sale');
  return made.id;
}

let people = 0;

/** The newest code that was mailed to an address. */
export async function mailedCode(email) {
  let code = null;
  const isThere = async () => {
    const mails = await (await fetch(`${MAIL}/?to=${encodeURIComponent(email)}`)).text();
    code = /(\d{6}) is your code/.exec(mails)?.[1];
    return Boolean(code);
  };
  await until(isThere, 'the code is mailed');
  return code;
}

/** Creates an account. */
export async function account() {
  const email = `person${Date.now()}${people++}@example.org`;
  const { session } = await api(PUBLIC, 'POST', '/api/accounts', { body: { email, password: BUYER_PASSWORD } });
  return { email, password: BUYER_PASSWORD, token: session.access_token, id: session.account_id };
}

export async function signIn(page, person) {
  await page.fill('#email', person.email);
  await page.fill('#password', person.password);
  await page.click('#sign-in-form button[value=known]');
}

/** The page of a person who has just signed in at the door of an event. */
export async function atTheDoor(context, eventId, person, base = PUBLIC) {
  const page = await context.newPage();
  await page.goto(`${base}/events/${eventId}`);
  await signIn(page, person);
  await page.waitForSelector('#join:visible');
  return page;
}

/** The page of a person who has just joined, who waits or already shops. */
export async function joined(context, eventId, person, base = PUBLIC) {
  const page = await atTheDoor(context, eventId, person, base);
  await page.click('#join');
  // Until then another tab or device finds no place.
  await page.waitForSelector('#waiting:visible, #shop:visible');
  return page;
}

/** The page of a person whose turn it is. */
export async function shopping(context, eventId, person, base = PUBLIC) {
  const page = await joined(context, eventId, person, base);
  await page.waitForSelector('#shop:visible');
  return page;
}

/** Replaces the stored access token by an invalid one. */
export const endToken = (page) =>
  page.evaluate(() => {
    const session = JSON.parse(localStorage.getItem('onsale.session'));
    localStorage.setItem('onsale.session', JSON.stringify({ ...session, access_token: 'ended' }));
  });

/** Runs an action that must show a dialog, answers it, and returns its text; fails without a dialog. */
async function answered(page, action, answer) {
  const shown = page.waitForEvent('dialog').then(async (dialog) => {
    await answer(dialog);
    return dialog.message();
  });
  const [message] = await Promise.all([shown, action()]);
  return message;
}

export const dismissed = (page, action) => answered(page, action, (dialog) => dialog.dismiss());

export const accepted = (page, action) => answered(page, action, (dialog) => dialog.accept());

export const text = (page, selector) => page.textContent(selector);
