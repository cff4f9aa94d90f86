// The pages of buyers and operators in a real browser.

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import {
  PUBLIC,
  STAFF,
  ADMIN,
  PASSWORD,
  accepted,
  account,
  api,
  atTheDoor,
  closeBrowser,
  dismissed,
  endToken,
  event,
  joined,
  mailedCode,
  openBrowser,
  shopping,
  signIn,
  staff,
  text,
  until,
  visitor,
} from './shop.mjs';

before(openBrowser);
after(closeBrowser);

/** Settings of a sale that calls nobody. */
const WAIT = { rate_per_minute: 0 };

test('a reload shows the place at once', async () => {
  const id = await event(WAIT);
  const context = await visitor();
  const page = await joined(context, id, await account());
  await until(async () => (await text(page, '#place')) === '1', 'the place is shown');
  await context.route('**/queue/me', (route) =>
    route.fulfill({
      status: 429,
      headers: { 'retry-after': '60' },
      contentType: 'application/problem+json',
      body: '{"type":"/problems/too-early","status":429}',
    }),
  );
  await page.reload();
  await page.waitForSelector('#waiting:visible');
  await until(async () => (await text(page, '#place')) === '1', 'the place is shown again');
  await context.close();
});

test('a new tab of the browser finds the place without signing in', async () => {
  const id = await event(WAIT);
  const context = await visitor();
  await joined(context, id, await account());
  const tab = await context.newPage();
  await tab.goto(`${PUBLIC}/events/${id}`);
  await tab.waitForSelector('#waiting:visible');
  await until(async () => (await text(tab, '#place')) === '1', 'the place is shown in the new tab');
  await context.close();
});

test('a tab at the door shows the place once another tab has joined', async () => {
  const id = await event(WAIT);
  const context = await visitor();
  const page = await atTheDoor(context, id, await account());
  const tab = await context.newPage();
  await tab.goto(`${PUBLIC}/events/${id}`);
  await tab.waitForSelector('#join:visible');
  await page.click('#join');
  await tab.waitForSelector('#waiting:visible');
  await until(async () => (await text(tab, '#place')) === '1', 'the place is shown in the other tab');
  await context.close();
});

test('another device finds the place after the sign-in', async () => {
  const id = await event(WAIT);
  const person = await account();
  const context = await visitor();
  await joined(context, id, person);
  const phone = await visitor();
  const page = await phone.newPage();
  await page.goto(`${PUBLIC}/events/${id}`);
  await signIn(page, person);
  await page.waitForSelector('#waiting:visible');
  await until(async () => (await text(page, '#place')) === '1', 'the place is shown');
  // Signed in, but without the stored place.
  await page.evaluate(() =>
    Object.keys(localStorage)
      .filter((key) => /queue|standing/.test(key))
      .forEach((key) => localStorage.removeItem(key)),
  );
  await page.reload();
  await page.waitForSelector('#waiting:visible');
  await phone.close();
  await context.close();
});

test('a place is found when everything is sold', async () => {
  const id = await event({}, { capacity: 2, price: { amount_minor: 0, currency: 'eur' } });
  const context = await visitor();
  const buyer = await shopping(context, id, await account());
  const queue = async () => (await fetch(`${PUBLIC}/api/events/${id}/queue`)).json();
  await staff('PUT', `/api/sales/${id}`, WAIT);
  await until(async () => (await queue()).rate_per_minute === 0, 'nobody is called any more');
  const person = await account();
  await api(PUBLIC, 'POST', `/api/events/${id}/queue`, { token: person.token, body: {} });
  await buyer.click('#book button:not([type=button])');
  await until(async () => (await queue()).state === 'sold_out', 'everything is sold');
  const phone = await visitor();
  const page = await phone.newPage();
  await page.goto(`${PUBLIC}/events/${id}`);
  await signIn(page, person);
  await page.waitForSelector('#waiting:visible');
  await until(
    async () => /You are called if seats come back/.test(await text(page, '#waiting-text')),
    'the place is still good',
  );
  await phone.close();
  const stranger = await visitor();
  const late = await stranger.newPage();
  await late.goto(`${PUBLIC}/events/${id}`);
  await signIn(late, await account());
  await until(async () => /Everything is sold/.test(await text(late, '#door-text')), 'the door says so');
  await until(() => late.isHidden('#sign-in'), 'the stranger is signed in');
  assert.equal(await late.isVisible('#join'), false);
  await stranger.close();
  await context.close();
});

for (const [name, answer] of [
  ['lost', (route) => route.abort()],
  [
    'answered 503',
    (route) =>
      route.fulfill({
        status: 503,
        headers: { 'retry-after': '1' },
        contentType: 'application/problem+json',
        body: '{"type":"/problems/overloaded"}',
      }),
  ],
  [
    'answered 429',
    (route) =>
      route.fulfill({
        status: 429,
        headers: { 'retry-after': '1' },
        contentType: 'application/problem+json',
        body: '{"type":"/problems/rate-limited"}',
      }),
  ],
]) {
  test(`a renewal of the session that was ${name} ends neither the session nor the place`, async () => {
    const id = await event(WAIT);
    const context = await visitor();
    const page = await joined(context, id, await account());
    await until(async () => (await text(page, '#place')) === '1', 'the place is shown');
    let asked = 0;
    await context.route('**/api/sessions/refresh', (route) => (asked++ === 0 ? answer(route) : route.continue()));
    await endToken(page);
    await page.evaluate(() =>
      localStorage.removeItem(Object.keys(localStorage).find((key) => key.startsWith('onsale.standing'))),
    );
    await until(() => asked >= 2, 'the renewal is asked for again');
    const isRenewed = () =>
      page.evaluate(() => JSON.parse(localStorage.getItem('onsale.session'))?.access_token !== 'ended');
    await until(isRenewed, 'the session is renewed');
    assert.ok(await page.isVisible('#waiting'));
    await context.close();
  });
}

test('two tabs whose token ran out share one renewal', async () => {
  const id = await event(WAIT);
  const context = await visitor();
  const page = await joined(context, id, await account());
  const tab = await context.newPage();
  await tab.goto(`${PUBLIC}/events/${id}`);
  await tab.waitForSelector('#waiting:visible');
  let refused = 0;
  context.on('response', (answer) => {
    if (answer.url().endsWith('/api/sessions/refresh') && !answer.ok()) refused++;
  });
  for (let round = 0; round < 2; round++) {
    await endToken(page);
    const call = (where) =>
      where.evaluate(async () => (await import('/assets/api.js')).call('GET', '/api/accounts/me'));
    const [one, two] = await Promise.all([call(page), call(tab)]);
    assert.equal(one.account.id, two.account.id);
  }
  assert.equal(refused, 0);
  assert.ok((await page.isVisible('#waiting')) && (await tab.isVisible('#waiting')));
  await context.close();
});

for (const skew of [660_000, -660_000]) {
  test(`a clock that is ${skew / 60_000} minutes off costs nobody their turn`, async () => {
    const id = await event();
    const context = await visitor();
    await context.addInitScript((off) => {
      const real = Date;
      // eslint-disable-next-line no-global-assign
      Date = class extends real {
        constructor(...parts) {
          super(...(parts.length ? parts : [real.now() + off]));
        }
        static now() {
          return real.now() + off;
        }
      };
    }, skew);
    const page = await shopping(context, id, await account());
    assert.equal(await page.isVisible('#problem'), false);
    const [minutes] = (await text(page, '#pass-left')).split(':').map(Number);
    assert.ok(minutes >= 8 && minutes <= 10, await text(page, '#pass-left'));
    await page.click('#book button:not([type=button])');
    await page.waitForURL('**/bookings/*');
    await page.waitForSelector('#pay-form:visible');
    const [left] = (await text(page, '#left')).split(':').map(Number);
    assert.ok(left >= 8 && left <= 10, await text(page, '#left'));
    await context.close();
  });
}

test('Enter in the form signs in who has an account', async () => {
  const id = await event();
  const person = await account();
  const context = await visitor();
  const page = await context.newPage();
  await page.goto(`${PUBLIC}/events/${id}`);
  await page.fill('#email', person.email);
  await page.fill('#password', person.password);
  await page.press('#password', 'Enter');
  await page.waitForSelector('#join:visible');
  await context.close();
});

test('the door says how the sale stands before anybody signs in', async () => {
  const opens = new Date(Date.now() + 3 * 86_400_000).toISOString();
  const id = await event(
    { opens_at: opens, lobby_seconds: 3600, message: 'Bring a warm coat.' },
    { time_zone: 'Pacific/Auckland' },
  );
  const context = await visitor({ locale: 'en-US', timezoneId: 'Europe/London' });
  const page = await context.newPage();
  await page.goto(`${PUBLIC}/events/${id}`);
  await until(async () => (await text(page, '#operator')) === 'Bring a warm coat.', 'the message is shown');
  const shown = (time) =>
    new Intl.DateTimeFormat('en-US', {
      weekday: 'long',
      day: 'numeric',
      month: 'long',
      year: 'numeric',
      hour: 'numeric',
      minute: '2-digit',
      timeZone: 'Pacific/Auckland',
      timeZoneName: 'short',
    }).format(time);
  const lobby = new Date(new Date(opens) - 3_600_000);
  await until(
    async () =>
      (await text(page, '#door-text')).includes(
        `The sale has not opened yet. It opens ${shown(new Date(opens))}. You can join from ${shown(lobby)} on.`,
      ),
    'the door says when, in the zone of the event',
  );
  await context.close();
});

test('the link of a mail opened in another browser leads through a sign-in to the payment', async () => {
  const id = await event();
  const person = await account();
  const context = await visitor();
  const page = await shopping(context, id, person);
  await page.click('#book button:not([type=button])');
  await page.waitForURL('**/bookings/*');
  const elsewhere = await visitor();
  const link = await elsewhere.newPage();
  await link.goto(page.url());
  await link.waitForSelector('#sign-in:visible');
  assert.doesNotMatch(await text(link, 'main'), /Bearer/);
  await signIn(link, person);
  await link.waitForSelector('#pay-form:visible');
  assert.match(await text(link, '#pay-button'), /Pay €50\.00/);
  await elsewhere.close();
  await context.close();
});

test('the answer of a hold that was lost makes no second hold', async () => {
  const id = await event({}, { max_tickets_per_account: 2 });
  const person = await account();
  const context = await visitor();
  const page = await shopping(context, id, person);
  const keys = [];
  await context.route('**/api/bookings', async (route) => {
    keys.push(route.request().headers()['idempotency-key']);
    if (keys.length === 1) {
      await route.fetch();
      return route.abort();
    }
    if (keys.length === 2)
      return route.fulfill({
        status: 409,
        contentType: 'application/problem+json',
        body: '{"type":"/problems/idempotency-key-in-progress","status":409}',
      });
    return route.continue();
  });
  await page.click('#book button:not([type=button])');
  await page.waitForURL('**/bookings/*');
  await page.waitForSelector('#pay-form:visible');
  assert.deepEqual(keys, Array(3).fill(keys[0]));
  const { bookings } = await api(PUBLIC, 'GET', `/api/bookings/user/${person.id}`, { token: person.token });
  assert.equal(bookings.length, 1);
  await context.close();
});

test('a cancellation names what goes back before it is confirmed', async () => {
  const id = await event();
  const context = await visitor();
  const page = await shopping(context, id, await account());
  await page.click('#book button:not([type=button])');
  await page.waitForURL('**/bookings/*');
  await page.waitForSelector('#pay-form:visible');
  assert.match(await dismissed(page, () => page.click('#cancel')), /nothing is charged/);
  await page.click('#pay-button');
  await page.waitForSelector('#tickets:visible');
  assert.match(await dismissed(page, () => page.click('#cancel')), /All of the €50\.00 you paid go back/);
  await staff('PUT', `/api/events/${id}/refund-policy`, { until: null, fee_percent: 30 });
  assert.match(
    await dismissed(page, () => page.click('#cancel')),
    /€35\.00 of the €50\.00 you paid go back.*€15\.00 are kept/,
  );
  await staff('PUT', `/api/events/${id}/refund-policy`, { until: new Date(Date.now() - 60_000).toISOString() });
  assert.match(await accepted(page, () => page.click('#cancel')), /Nothing is refunded/);
  await until(async () => /This booking is cancelled/.test(await text(page, '#state')), 'the booking is cancelled');
  await context.close();
});

test('seats are held over plain http at a name', async () => {
  const id = await event();
  const base = PUBLIC.replace('127.0.0.1', 'onsale.test');
  const context = await visitor();
  const page = await shopping(context, id, await account(), base);
  await page.click('#book button:not([type=button])');
  await page.waitForURL('**/bookings/*');
  await context.close();
});

test('the door goes on when the network is back', async () => {
  const id = await event(WAIT);
  const context = await visitor();
  const page = await atTheDoor(context, id, await account());
  await context.setOffline(true);
  await page.evaluate(() => dispatchEvent(new Event('online')));
  await page.waitForSelector('#problem:visible');
  await staff('PUT', `/api/sales/${id}`, { paused: true, message: 'Back in five minutes.' });
  await context.setOffline(false);
  await until(async () => (await text(page, '#operator')) === 'Back in five minutes.', 'the message is shown');
  assert.equal(await page.isVisible('#problem'), false);
  await context.close();
});

test('a first load that fails is tried again', async () => {
  const id = await event();
  const context = await visitor();
  let asked = 0;
  await context.route(`**/api/events/${id}`, (route) => (asked++ === 0 ? route.abort() : route.continue()));
  const page = await context.newPage();
  await page.goto(`${PUBLIC}/events/${id}`);
  await until(async () => (await text(page, '#name')) === 'Garden party', 'the event is shown');
  await context.close();
});

test('a join that the server was too busy for is tried again', async () => {
  const id = await event(WAIT);
  const context = await visitor();
  const page = await atTheDoor(context, id, await account());
  const answers = [503, 429];
  let asked = 0;
  await context.route('**/events/*/queue', (route) => {
    if (route.request().method() !== 'POST') return route.continue();
    asked++;
    const status = answers.shift();
    if (!status) return route.continue();
    return route.fulfill({
      status,
      headers: { 'retry-after': '1' },
      contentType: 'application/problem+json',
      body: '{"type":"/problems/overloaded"}',
    });
  });
  await page.click('#join');
  await until(
    async () => /we keep trying for you/.test(await text(page, '#door-text')),
    'the door says that it tries again',
  );
  assert.ok(await page.isDisabled('#join'));
  await page.waitForSelector('#waiting:visible');
  assert.equal(asked, 3);
  assert.equal(await page.isVisible('#problem'), false);
  await context.close();
});

test('a new account confirms its address by the code from the mail', async () => {
  const id = await event(WAIT);
  const context = await visitor();
  const page = await context.newPage();
  await page.goto(`${PUBLIC}/events/${id}`);
  const email = `new${Date.now()}@example.org`;
  await page.fill('#email', email);
  await page.fill('#password', 'correct horse battery');
  await page.click('#sign-in-form button[value=new]');
  await page.waitForSelector('#join:visible');
  await page.waitForSelector('#confirm:visible');
  assert.equal(await text(page, '#confirm-address'), email);
  const code = await mailedCode(email);
  // The queue can be joined without it.
  await page.click('#join');
  await page.waitForSelector('#waiting:visible');
  await page.reload();
  await page.waitForSelector('#confirm:visible');
  await page.fill('#confirm-code', code === '000000' ? '111111' : '000000');
  await page.press('#confirm-code', 'Enter');
  await page.waitForSelector('#confirm-problem:visible');
  assert.match(await text(page, '#confirm-problem'), /The code is wrong\. You can try 4 times more/);
  await page.click('#confirm-again');
  await until(
    async () => /Another can be sent in/.test(await text(page, '#confirm-problem')),
    'the page says when another is sent',
  );
  await page.fill('#confirm-code', ` ${code.slice(0, 3)} ${code.slice(3)}`);
  await page.click('#confirm-form button:not([type=button])');
  await until(async () => /Your address is confirmed/.test(await text(page, '#confirm-text')), 'the page says so');
  const me = () => page.evaluate(async () => (await import('/assets/api.js')).call('GET', '/api/accounts/me'));
  assert.equal((await me()).account.email_confirmed, true);
  await page.reload();
  await page.waitForSelector('#waiting:visible');
  assert.equal(await page.isVisible('#confirm'), false);
  await context.close();
});

test('leaving the queue asks before the place is lost', async () => {
  const id = await event(WAIT);
  const context = await visitor();
  const page = await joined(context, id, await account());
  await page.waitForSelector('#waiting:visible');
  assert.match(await dismissed(page, () => page.click('#leave')), /Your place is lost/);
  assert.ok(await page.isVisible('#waiting'));
  await context.close();
});

test('a new place counts the people ahead anew', async () => {
  const id = await event(WAIT);
  const context = await visitor();
  const page = await joined(context, id, await account());
  await until(async () => (await text(page, '#ahead')) === '0', 'nobody is ahead of the first');
  await accepted(page, () => page.click('#leave'));
  await page.waitForSelector('#join:visible');
  const other = await account();
  await api(PUBLIC, 'POST', `/api/events/${id}/queue`, { token: other.token, body: {} });
  await page.click('#join');
  await until(async () => (await text(page, '#place')) === '3', 'the new place is shown');
  await until(async () => (await text(page, '#ahead')) === '1', 'the other is ahead');
  await context.close();
});

test('the time to choose does not run out in silence', async () => {
  const id = await event();
  const context = await visitor();
  const page = await shopping(context, id, await account());
  await page.evaluate(() => {
    const key = Object.keys(localStorage).find((name) => name.startsWith('onsale.pass.'));
    const held = JSON.parse(localStorage.getItem(key));
    localStorage.setItem(key, JSON.stringify({ ...held, until: new Date(Date.now() + 2500).toISOString() }));
  });
  await page.reload();
  await page.waitForSelector('#shop:visible');
  await page.waitForSelector('#door:visible');
  assert.match(await text(page, '#problem'), /Your time to choose ran out/);
  await context.close();
});

test('whoever leaves without buying returns the slot', async () => {
  const id = await event({ shopper_cap: 1 });
  const context = await visitor();
  const page = await shopping(context, id, await account());
  await accepted(page, () => page.click('#done'));
  await page.waitForSelector('#door:visible');
  const next = await visitor();
  await shopping(next, id, await account());
  await next.close();
  await context.close();
});

test('the time to pay does not run out in silence', async () => {
  const id = await event();
  const context = await visitor();
  const page = await shopping(context, id, await account());
  let end = null;
  await context.route('**/api/bookings/*', async (route) => {
    const answer = await route.fetch();
    const body = await answer.json();
    if (body.booking?.state === 'held') {
      end ??= new Date(Date.now() + 4000).toISOString();
      body.booking.hold_until = end;
    }
    await route.fulfill({ response: answer, json: body });
  });
  await page.click('#book button:not([type=button])');
  await page.waitForURL('**/bookings/*');
  await page.waitForSelector('#pay-button:visible:disabled');
  assert.match(await text(page, '#hold-warning'), /The time to pay is over\..*nothing is charged/);
  assert.match(await text(page, '#left'), /^0:00/);
  await context.close();
});

/** The page of the buyer's bank, which asks about the payment of a booking. */
async function atTheBank(context) {
  const page = await shopping(context, await event(), await account());
  await page.click('#book button:not([type=button])');
  await page.waitForURL('**/bookings/*');
  await page.waitForSelector('#pay-form:visible');
  const booking = page.url();
  await page.selectOption('#card', 'pm_card_threeDSecure2Required');
  await page.click('#pay-button');
  await page.waitForSelector('button[value=success]');
  return { page, booking };
}

test('a payment that the bank confirmed ends in tickets', async () => {
  const context = await visitor();
  const { page, booking } = await atTheBank(context);
  await page.click('button[value=success]');
  await page.waitForSelector('#tickets:visible');
  assert.equal(page.url(), booking);
  assert.equal(await page.isVisible('#problem'), false);
  await context.close();
});

test('a payment that the bank did not confirm can be tried again', async () => {
  const context = await visitor();
  const { page, booking } = await atTheBank(context);
  await page.click('button[value=fail]');
  await page.waitForSelector('#problem:visible');
  assert.match(await text(page, '#problem'), /did not confirm/);
  await page.waitForSelector('#pay-form:visible');
  assert.equal(page.url(), booking);
  await page.selectOption('#card', 'pm_card_visa');
  await page.click('#pay-button');
  await page.waitForSelector('#tickets:visible');
  assert.equal(await page.isVisible('#problem'), false);
  await context.close();
});

test('a payment form that could not be loaded is loaded again', async () => {
  const id = await event();
  const context = await visitor();
  await context.route('**/api/bookings/*', async (route) => {
    const answer = await route.fetch();
    const body = await answer.json();
    if (body.booking?.payment?.api_url) body.booking.payment.api_url = 'https://api.stripe.com';
    await route.fulfill({ response: answer, json: body });
  });
  let asked = 0;
  const stripe = 'window.Stripe = () => ({ elements: () => ({ create: () => ({ mount() {} }) }) });';
  await context.route('https://js.stripe.com/**', (route) =>
    asked++ < 1 ? route.abort() : route.fulfill({ contentType: 'text/javascript', body: stripe }),
  );
  const page = await shopping(context, id, await account());
  await page.click('#book button:not([type=button])');
  await page.waitForURL('**/bookings/*');
  await page.waitForSelector('#pay-form:visible');
  assert.ok(asked >= 2);
  await context.close();
});

test('a name from right to left turns nothing around it', async () => {
  const name = `מסיבת גן ${Date.now()}`;
  const id = await event(WAIT, { name, venue: 'אולם 7', city: 'חיפה' });
  const context = await visitor();
  const page = await context.newPage();
  await page.goto(`${PUBLIC}/events/${id}`);
  await until(async () => (await text(page, 'h1 bdi')) === name, 'the event is shown');
  assert.equal(await page.title(), `\u2068${name}\u2069 · Onsale`);
  assert.match(await text(page, '#when'), / · \u2068אולם 7\u2069 · \u2068חיפה\u2069$/);
  await page.goto(PUBLIC);
  await page.fill('#q', name);
  await page.press('#q', 'Enter');
  await until(
    async () => (await page.locator('#events a bdi').allTextContents()).join() === name,
    'the list has the name',
  );
  const staffPage = await console_(context, id);
  assert.equal(await text(staffPage, 'h1 bdi'), name);
  await staffPage.goto(STAFF);
  await staffPage.waitForSelector('#choose:visible');
  await staffPage.fill('#q', name);
  await staffPage.press('#q', 'Enter');
  await until(
    async () => (await staffPage.locator('#events a bdi').allTextContents()).join() === name,
    'the console lists the name',
  );
  await context.close();
});

async function console_(context, id) {
  const page = await context.newPage();
  await page.goto(`${STAFF}/#${id}`);
  await page.fill('#email', ADMIN);
  await page.fill('#password', PASSWORD);
  await page.click('#sign-in-form button');
  await page.waitForSelector('#settings:visible');
  return page;
}

test('two operators do not undo each other', async () => {
  const id = await event({ rate_per_minute: 600 });
  const context = await visitor({ viewport: { width: 1440, height: 900 } });
  const page = await console_(context, id);
  await context.route(`**/api/sales/${id}/stream`, (route) => route.abort());
  await page.fill('#message', 'Welcome.');
  const { sale } = await staff('PUT', `/api/sales/${id}`, { rate_per_minute: 60 });
  await page.click('#settings button:not([type=button])');
  await until(
    async () =>
      (await staff('GET', `/api/sales/${id}`)).sale.message === 'Welcome.' || (await page.isVisible('#problem')),
    'an answer',
  );
  if (await page.isVisible('#problem')) await page.click('#settings button:not([type=button])');
  await until(
    async () => (await staff('GET', `/api/sales/${id}`)).sale.message === 'Welcome.',
    'the message is applied',
  );
  assert.equal((await staff('GET', `/api/sales/${id}`)).sale.rate_per_minute, sale.rate_per_minute);
  await context.close();
});

test('a jump of the rate is asked about', async () => {
  const id = await event({ rate_per_minute: 60 });
  const context = await visitor({ viewport: { width: 1440, height: 900 } });
  const page = await console_(context, id);
  await page.fill('#rate', '600000');
  const asked = await dismissed(page, () => page.click('#settings button:not([type=button])'));
  assert.match(asked, /from 60 to 600,000/);
  assert.equal((await staff('GET', `/api/sales/${id}`)).sale.rate_per_minute, 60);
  await context.close();
});

test('the console never shows the controls of another sale', async () => {
  const id = await event();
  const context = await visitor({ viewport: { width: 1440, height: 900 } });
  const page = await console_(context, id);
  await page.evaluate(() => {
    location.hash = '#99999999';
  });
  await page.waitForSelector('#problem:visible');
  assert.equal(await page.isVisible('#settings'), false);
  await context.close();
});

test('figures that are old are said to be so', async () => {
  const id = await event();
  const context = await visitor({ viewport: { width: 1440, height: 900 } });
  await context.addInitScript(() => {
    const real = window.fetch;
    window.fetch = async (path, options) => {
      const answer = await real(path, options);
      if (!String(path).endsWith('/stream')) return answer;
      await answer.body.cancel();
      return new Response(new ReadableStream({}), { status: 200, headers: { 'content-type': 'text/event-stream' } });
    };
  });
  const page = await console_(context, id);
  await until(
    async () => /these figures are old/.test(await text(page, '#link')),
    'the console says that its figures are old',
  );
  await context.close();
});
