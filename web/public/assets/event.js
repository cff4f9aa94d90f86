import { at, call, duration, moment, money, pause, session, show, signIn } from './api.js';

const eventId = location.pathname.split('/')[2];
const SECTIONS = ['sign-in', 'door', 'waiting', 'shop'];
const TOKEN = `onsale.queue.${eventId}`;
const PASS = `onsale.pass.${eventId}`;

let event = null;
let joinedAhead = null;

function problem(text) {
  at('problem').textContent = text || '';
  at('problem').hidden = !text;
}

/** Runs an action of the person, and says what went wrong. */
async function attempt(action) {
  problem('');
  try {
    await action();
  } catch (refused) {
    problem(refused.message);
  }
}

async function describe() {
  ({ event } = await call('GET', `/api/events/${eventId}`));
  document.title = event.name;
  at('name').textContent = event.name;
  at('when').textContent = [moment(event.date, event.time_zone), event.venue, event.city].filter(Boolean).join(' · ');
  at('about').textContent = event.description;
  at('prices').replaceChildren(
    ...event.sections.map((section) => {
      const item = document.createElement('li');
      item.textContent = `${section.name}: ${money(section.tier.price)}`;
      return item;
    }),
  );
  const anywhere = new Option('Best available, anywhere', '');
  at('section').replaceChildren(anywhere, ...event.sections.map((s) => new Option(`${s.name}, ${money(s.tier.price)}`, s.id)));
  at('tickets').max = Math.min(20, event.max_tickets_per_account);
}

async function stock() {
  const { available } = await call('GET', `/api/events/${eventId}/availability`);
  at('stock').textContent = `${available} seats are free.`;
}

function tell(message) {
  at('operator').textContent = message;
  at('operator').hidden = !message;
}

async function door() {
  if (!session()) return show('sign-in', SECTIONS);
  show('door', SECTIONS);
  const queue = await call('GET', `/api/events/${eventId}/queue`);
  tell(queue.message);
  const text = {
    scheduled: 'The sale has not opened yet. Come back later.',
    lobby: 'The sale opens soon. You can join now.',
    open: `${queue.waiting} people wait. About ${queue.rate_per_minute} are let in each minute.`,
    paused: 'The sale is paused. You can join, and will be called when it goes on.',
    closed: 'The sale is closed.',
    sold_out: 'Everything is sold.',
  }[queue.state];
  at('door-text').textContent = text;
  at('join').disabled = !['lobby', 'open', 'paused'].includes(queue.state);
}

async function join() {
  const joined = await call('POST', `/api/events/${eventId}/queue`, { body: {} });
  sessionStorage.setItem(TOKEN, joined.queue_token);
  await wait();
}

function drop(key) {
  sessionStorage.removeItem(key);
}

async function wait() {
  show('waiting', SECTIONS);
  for (;;) {
    const token = sessionStorage.getItem(TOKEN);
    if (!token) return door();
    let me;
    try {
      me = await call('GET', `/api/events/${eventId}/queue/me`, { headers: { 'onsale-queue-token': token } });
    } catch (refused) {
      if (refused.status === 401) {
        drop(TOKEN);
        return door();
      }
      at('waiting-text').textContent = 'The connection is slow; your place is kept.';
      await pause(3000);
      continue;
    }
    if (me.state === 'ready' || me.state === 'claimed') return claim(token);
    if (me.state === 'missed' || me.state === 'left') {
      drop(TOKEN);
      problem(me.state === 'missed' ? 'Your turn went by unused. You can join again.' : 'You left the queue.');
      return door();
    }
    waiting(me);
    await pause(me.poll_after_ms);
  }
}

function waiting(me) {
  joinedAhead ??= me.ahead;
  tell(me.message);
  at('place').textContent = me.place.toLocaleString();
  at('ahead').textContent = me.ahead.toLocaleString();
  at('eta').textContent = me.eta_seconds ? duration(me.eta_seconds.p90) : '–';
  at('progress').value = joinedAhead > 0 ? 1 - me.ahead / joinedAhead : 1;
  const text = { open: '', paused: 'The sale is paused.', lobby: 'The sale has not opened yet.', sold_out: 'Everything is sold.', closed: 'The sale is closed.' };
  at('waiting-text').textContent = text[me.sale] || '';
}

async function claim(token) {
  for (;;) {
    try {
      const { pass, expires_at: until } = await call('POST', `/api/events/${eventId}/pass`, { body: {}, headers: { 'onsale-queue-token': token } });
      sessionStorage.setItem(PASS, JSON.stringify({ pass, until }));
      return shop();
    } catch (refused) {
      if (refused.status !== 429 && refused.kind !== 'not-called') {
        drop(TOKEN);
        problem(refused.message);
        return door();
      }
      await pause(1000);
    }
  }
}

function shop() {
  const held = JSON.parse(sessionStorage.getItem(PASS));
  at('pass-until').textContent = new Date(held.until).toLocaleTimeString();
  show('shop', SECTIONS);
  at('tickets').focus();
}

async function book() {
  const { pass } = JSON.parse(sessionStorage.getItem(PASS));
  const body = { event_id: Number(eventId), user_id: session().account_id, tickets: Number(at('tickets').value) };
  if (at('section').value) body.section_id = Number(at('section').value);
  const headers = { 'onsale-pass': pass, 'idempotency-key': crypto.randomUUID() };
  const { booking } = await call('POST', '/api/bookings', { body, headers });
  location.assign(`/bookings/${booking.id}`);
}

at('sign-in-form').addEventListener('submit', (submit) => {
  submit.preventDefault();
  const isNew = submit.submitter?.value !== 'known';
  attempt(async () => {
    await signIn(at('email').value, at('password').value, isNew);
    await door();
  });
});
at('join').addEventListener('click', () => attempt(join));
at('leave').addEventListener('click', () =>
  attempt(async () => {
    const token = sessionStorage.getItem(TOKEN);
    drop(TOKEN);
    await call('DELETE', `/api/events/${eventId}/queue/me`, { headers: { 'onsale-queue-token': token } });
  }),
);
at('book').addEventListener('submit', (submit) => {
  submit.preventDefault();
  attempt(book);
});

attempt(async () => {
  await describe();
  await stock();
  const held = JSON.parse(sessionStorage.getItem(PASS) || 'null');
  if (held && new Date(held.until) > new Date()) return shop();
  if (session() && sessionStorage.getItem(TOKEN)) return wait();
  await door();
});
