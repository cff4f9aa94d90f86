import { at, call, moment } from './api.js';

let cursor = null;

function line(event) {
  const item = document.createElement('li');
  item.className = 'card';
  const link = document.createElement('a');
  link.href = `/events/${event.id}`;
  link.textContent = event.name;
  const where = document.createElement('p');
  where.className = 'quiet';
  where.textContent = [moment(event.date, event.time_zone), event.venue, event.city].filter(Boolean).join(' · ');
  item.append(link, where);
  return item;
}

async function load(fresh) {
  const wanted = new URLSearchParams();
  const form = new FormData(at('search'));
  for (const [key, value] of form) {
    if (value) wanted.set(key, key === 'from' ? new Date(value).toISOString() : value);
  }
  if (!fresh && cursor) wanted.set('cursor', cursor);
  at('status').textContent = 'Looking…';
  try {
    const { events, next_cursor: next } = await call('GET', `/api/events?${wanted}`);
    if (fresh) at('events').replaceChildren();
    at('events').append(...events.map(line));
    cursor = next;
    at('more').hidden = !next;
    const count = at('events').children.length;
    at('status').textContent = count ? `${count} shown` : 'No event matches.';
  } catch (refused) {
    at('status').textContent = refused.message;
  }
}

at('search').addEventListener('submit', (submit) => {
  submit.preventDefault();
  load(true);
});
at('more').addEventListener('click', () => load(false));
load(true);
