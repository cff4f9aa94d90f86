// One booking: its seats, paying for it, its tickets, and giving it back.

import { at, attempt, call, clock, count, list, money, pause, problem, show, whenAndWhere, write } from './api.js';
import { payWithStripe, payWithTestCard } from './pay.js';
import { PAYMENTS, REASONS, REFUNDS, STATES } from './words.js';

const bookingId = location.pathname.split('/')[2];
const SECTIONS = ['pay', 'tickets'];
const ENDED = ['rejected', 'expired', 'cancelled'];

let formFor = null;
let eventShown = false;
let holdUntil = null;

const seat = ({ section, row, number }) => (row ? `${section}, row ${row}, seat ${number}` : section);

function words({ state, reason, payment }) {
  const parts = [STATES[state], REASONS[reason], REFUNDS[payment?.refund]];
  if (state === 'held' && PAYMENTS[payment?.state]) return PAYMENTS[payment.state];
  return parts.filter(Boolean).join(' ');
}

function ticket(code, seatOfCode) {
  const text = document.createElement('code');
  text.textContent = code;
  const where = document.createElement('p');
  where.className = 'quiet';
  where.textContent = seatOfCode ? seat(seatOfCode) : '';
  const both = document.createDocumentFragment();
  both.append(text, where);
  return both;
}

function render(booking) {
  const { state, payment, ticket_codes: codes } = booking;
  const seats = booking.seats || [];
  write('state', words(booking));
  if (state === 'confirmed') {
    if (at('codes').children.length !== codes.length) list('codes', codes.map((code, n) => [code, seats[n]]), (pair) => ticket(...pair));
    at('seats').replaceChildren();
  } else if (at('seats').children.length !== seats.length) list('seats', seats, seat);
  write('total', booking.total ? `${count(booking.tickets, 'ticket', 'tickets')}, ${money(booking.total)}` : '');
  at('cancel').hidden = !['held', 'confirmed'].includes(state);
  at('again').hidden = !ENDED.includes(state);
  const due = state === 'held' && payment?.client_secret;
  if (due) offer(booking);
  show(state === 'confirmed' ? 'tickets' : due ? 'pay' : null, SECTIONS);
}

/** The event is told of once; a booking stays usable without it. */
async function tellEvent(id) {
  at('again').firstElementChild.href = `/events/${id}`;
  if (eventShown) return;
  eventShown = true;
  const { event } = await call('GET', `/api/events/${id}`);
  write('title', event.name);
  write('when', whenAndWhere(event));
  document.title = `Your booking · ${event.name}`;
}

function offer({ hold_until: until, payment }) {
  holdUntil = new Date(until);
  write('until', clock(until));
  countDown();
  if (formFor === payment.intent_id) return;
  formFor = payment.intent_id;
  const setUp = payment.api_url === 'https://api.stripe.com' ? payWithStripe : payWithTestCard;
  setUp(payment, problem);
}

function countDown() {
  if (!holdUntil) return;
  const seconds = Math.max(0, Math.round((holdUntil - Date.now()) / 1000));
  write('left', `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, '0')} left`);
}

/** Whether there is still something to wait for. */
function isOver({ state, payment }) {
  return ENDED.includes(state) && payment?.refund !== 'pending';
}

async function follow() {
  for (;;) {
    try {
      const { booking } = await call('GET', `/api/bookings/${bookingId}`);
      render(booking);
      tellEvent(booking.event_id).catch(() => {});
      if (isOver(booking)) return;
      await pause(booking.state === 'confirmed' ? 10000 : 1000);
    } catch (refused) {
      if ([401, 403, 404].includes(refused.status)) return write('state', refused.message);
      write('state', refused.message);
      await pause(3000);
    }
  }
}

at('cancel').addEventListener('click', ({ currentTarget: button }) => {
  if (!confirm('Give these seats back? They go on sale again at once.')) return;
  attempt(async () => {
    await call('PUT', `/api/bookings/${bookingId}/cancel`);
    const { booking } = await call('GET', `/api/bookings/${bookingId}`);
    render(booking);
  }, button);
});
setInterval(countDown, 1000);
follow();
