// The tickets that others have transferred to this account.

import { bdi, call, count, list, patiently, session, whenAndWhere, write } from './api.js';
import { askToSignIn } from './sign-in.js';
import { transferForm } from './transfer.js';
import { TICKETS, seatName } from './words.js';

const events = new Map();

/** Reads an event once, however many tickets there are for it. */
async function eventOf({ event_id: id }) {
  if (!events.has(id)) events.set(id, (await call('GET', `/api/events/${id}`)).event);
  return events.get(id);
}

function line(className, text) {
  const p = document.createElement('p');
  p.className = className;
  p.textContent = text;
  return p;
}

function ticket({ code, seat, state }, event, number) {
  const all = document.createDocumentFragment();
  const name = document.createElement('strong');
  name.append(bdi(event.name));
  all.append(
    name,
    line('quiet', whenAndWhere(event)),
    line('', [seat && seatName(seat), TICKETS[state]].filter(Boolean).join(' · ')),
  );
  if (!code) return all;
  const text = document.createElement('code');
  text.textContent = code;
  all.append(text);
  if (event.ticket_transfer && state === 'valid') all.append(transferForm(code, number, load));
  return all;
}

async function load() {
  const { tickets } = await call('GET', '/api/tickets');
  const received = tickets.filter((one) => one.received_at);
  const told = await Promise.all(received.map(async (one) => [one, await eventOf(one)]));
  list(
    'tickets',
    told.map((pair, number) => [...pair, number]),
    (triple) => ticket(...triple),
  );
  write(
    'state',
    received.length ? `${count(received.length, 'ticket', 'tickets')}.` : 'Nobody has transferred a ticket to you.',
  );
}

async function start() {
  askToSignIn(true, start);
  if (!session()) return write('state', 'You are not signed in.');
  try {
    await patiently(load, (failure) => write('state', failure.message));
  } catch (failure) {
    askToSignIn(true, start);
    write('state', session() ? failure.message : 'You are not signed in.');
  }
}

start();
