// The list of events, and the bookings of the signed-in account.

import { at, bdi, call, count, list, session, signOut, whenAndWhere, write } from './api.js';
import { STATES } from './words.js';

let cursor = null;

function line(event) {
  const item = document.createElement('li');
  const link = document.createElement('a');
  link.href = `/events/${event.id}`;
  link.append(bdi(event.name));
  const where = document.createElement('p');
  where.className = 'quiet';
  where.textContent = whenAndWhere(event);
  item.append(link, where);
  return item;
}

async function load(fresh) {
  const wanted = new URLSearchParams();
  for (const [key, entry] of new FormData(at('search'))) {
    const value = String(entry);
    if (value) wanted.set(key, key === 'from' ? new Date(value).toISOString() : value);
  }
  if (!fresh && cursor) wanted.set('cursor', cursor);
  write('status', 'Looking…');
  try {
    const { events, next_cursor: next } = await call('GET', `/api/events?${wanted}`);
    if (fresh) at('events').replaceChildren();
    at('events').append(...events.map(line));
    cursor = next;
    at('more').hidden = !next;
    const found = at('events').children.length;
    write('status', found ? count(found, 'event', 'events') : 'No event matches.');
  } catch (refused) {
    write('status', refused.message);
  }
}

async function mine() {
  if (!session()) return;
  at('sign-out').hidden = false;
  const { bookings } = await call('GET', `/api/bookings/user/${session().account_id}`);
  const live = bookings.filter((booking) => ['requested', 'held', 'confirmed'].includes(booking.state));
  list('bookings', live, (booking) => {
    const link = document.createElement('a');
    link.href = `/bookings/${booking.id}`;
    link.textContent = `${count(booking.tickets, 'ticket', 'tickets')}: ${STATES[booking.state]}`;
    return link;
  });
  at('mine').hidden = live.length === 0;
  const { tickets } = await call('GET', '/api/tickets');
  at('received').hidden = !tickets.some((ticket) => ticket.received_at && ticket.code);
}

at('search').addEventListener('submit', (submit) => {
  submit.preventDefault();
  load(true);
});
at('more').addEventListener('click', () => load(false));
at('sign-out').addEventListener('click', async () => {
  await signOut();
  location.reload();
});
load(true);
// Optional: the events are shown without the bookings.
mine().catch(() => {});
