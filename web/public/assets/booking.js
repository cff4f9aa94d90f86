// One booking: its seats, payment, tickets and cancellation.

import {
  at,
  attempt,
  call,
  clock,
  count,
  countDown,
  isolated,
  list,
  money,
  pause,
  pauseBefore,
  problem,
  session,
  show,
  whenAndWhere,
  write,
} from './api.js';
import { listCards } from './cards.js';
import { openTill } from './pay.js';
import { askToSignIn } from './sign-in.js';
import { transferForm } from './transfer.js';
import { PAYMENTS, REASONS, REFUNDS, STATES, TICKETS, seatName } from './words.js';

const bookingId = location.pathname.split('/')[2];
const SECTIONS = ['pay', 'tickets'];
const ENDED = ['rejected', 'expired', 'cancelled'];

let formFor = null;
let event = null;
let codesShown = null;
let holdUntil = null;
let stopCountdown = () => {};

function words({ state, reason, payment }) {
  if (state === 'held' && PAYMENTS[payment?.state]) return PAYMENTS[payment.state];
  // The hold did not end for lack of a payment.
  if (reason === 'payment_refused') return REASONS[reason];
  return [STATES[state], REASONS[reason], REFUNDS[payment?.refund]].filter(Boolean).join(' ');
}

function ticket(code, seat) {
  const where = document.createElement('strong');
  where.textContent = seat ? seatName(seat) : '';
  const all = document.createDocumentFragment();
  if (!code) {
    const gone = document.createElement('p');
    gone.className = 'quiet';
    gone.textContent = TICKETS.transferred;
    all.append(where, gone);
    return all;
  }
  const text = document.createElement('code');
  text.textContent = code;
  all.append(where, text);
  if (event?.ticket_transfer) all.append(transferForm(code, seat?.id ?? code.slice(-8), look));
  return all;
}

/** Renders the tickets only when they changed: somebody may be typing an address. */
function renderTickets({ ticket_codes: codes, transferred_seats: gone, seats }) {
  const key = JSON.stringify([codes, event?.ticket_transfer]);
  if (codesShown === key) return;
  codesShown = key;
  const byId = [...seats].sort((a, b) => a.id - b.id);
  const mine = byId.filter((seat) => !gone.includes(seat.id)).map((seat, n) => [codes[n], seat]);
  const given = byId.filter((seat) => gone.includes(seat.id)).map((seat) => [null, seat]);
  list('codes', [...mine, ...given], (pair) => ticket(...pair));
}

/** The names of seats; those without a number are counted. */
function seatLines(seats) {
  const counts = new Map();
  for (const seat of seats) counts.set(seatName(seat), (counts.get(seatName(seat)) ?? 0) + 1);
  return [...counts].map(([name, number]) => (number > 1 ? `${number} × ${name}` : name));
}

function render(booking) {
  const { state, payment } = booking;
  const seats = booking.seats || [];
  write('state', words(booking));
  if (state === 'confirmed') {
    renderTickets(booking);
    at('seats').replaceChildren();
  } else {
    const lines = seatLines(seats);
    if (at('seats').children.length !== lines.length) list('seats', lines, String);
  }
  write('total', booking.total ? `${count(booking.tickets, 'ticket', 'tickets')}, ${money(booking.total)}` : '');
  at('cancel').hidden = !['held', 'confirmed'].includes(state);
  at('again').hidden = !ENDED.includes(state);
  const due = state === 'held' && payment?.client_secret;
  at('kept').hidden = Boolean(due);
  if (due) offer(booking);
  show(state === 'confirmed' ? 'tickets' : due ? 'pay' : null, SECTIONS);
}

/** Shows the event, read once; a booking is usable without it. */
async function showEvent(id) {
  at('again').firstElementChild.href = `/events/${id}`;
  if (event) return;
  ({ event } = await call('GET', `/api/events/${id}`));
  write('title', event.name);
  write('when', whenAndWhere(event));
  document.title = `Your booking · ${isolated(event.name)}`;
}

function offer({ hold_until: until, payment, total }) {
  watchHold(until);
  write('pay-button', `Pay ${money(total)}`);
  if (formFor === payment.intent_id) return;
  formFor = payment.intent_id;
  openTill(bookingId, payment).catch((failed) => {
    problem(failed.message);
    formFor = null;
  });
}

/** Counts down to the end of the hold, which may be extended once; then disables the payment. */
function watchHold(until) {
  if (holdUntil === until) return;
  holdUntil = until;
  stopCountdown();
  at('pay-button').disabled = false;
  write('until', clock(until));
  stopCountdown = countDown(until, {
    draw: (text) => write('left', `${text} left`),
    say: (text) => write('hold-warning', `${text} left to pay.`),
    over: () => {
      at('pay-button').disabled = true;
      write(
        'hold-warning',
        'The time to pay is over. Seats that are not paid go back on sale, and nothing is charged.',
      );
    },
  });
}

/** Whether the booking will not change any more. */
function isOver({ state, payment }) {
  return ENDED.includes(state) && payment?.refund !== 'pending';
}

async function look() {
  const { booking } = await call('GET', `/api/bookings/${bookingId}`);
  await showEvent(booking.event_id).catch(() => {});
  render(booking);
  return booking;
}

async function follow() {
  for (let failures = 0; ;) {
    try {
      const booking = await look();
      if (failures) problem('');
      failures = 0;
      if (isOver(booking)) return;
      await pause(booking.state === 'confirmed' ? 10000 : 1000);
    } catch (failure) {
      if (failure.status === 401) return signInFirst();
      if (!failure.isPassing) return nothingHere(failure);
      problem(failure.message);
      await pauseBefore(++failures, failure);
    }
  }
}

/** Asks for a sign-in in place, since a link in a mail may be opened in any browser. */
function signInFirst() {
  write('state', session() ? '' : 'Sign in with the address your mails go to.');
  askToSignIn(true, () => {
    askToSignIn(false, () => {});
    write('state', 'Looking it up…');
    follow();
  });
}

function nothingHere(failure) {
  const isUnknown = [400, 403, 404].includes(failure.status);
  write(
    'state',
    isUnknown ? 'This account has no such booking. It may belong to another address of yours.' : failure.message,
  );
  at('elsewhere').hidden = false;
}

/** The question before a cancellation: what is lost, and how much is refunded, how and when. */
async function priceOfCancelling() {
  const { booking } = await call('GET', `/api/bookings/${bookingId}`);
  if (booking.state !== 'confirmed')
    return 'Give these seats back? They go on sale again at once, and nothing is charged.';
  const question = 'Cancel this booking? Its tickets stop working, and the seats go on sale again at once.';
  if (booking.total.amount_minor === 0) return question;
  const { refund } = await call('GET', `/api/bookings/${bookingId}/refund`);
  return `${question} ${moneyBack(refund)}`;
}

function moneyBack({ paid, amount, kept }) {
  if (paid.amount_minor === 0) return 'No money is left to refund.';
  if (amount.amount_minor === 0) return 'Nothing is refunded: the terms of this event keep all of it.';
  const back = kept.amount_minor ? `${money(amount)} of the ${money(paid)}` : `All of the ${money(paid)}`;
  const rest = kept.amount_minor ? ` ${money(kept)} are kept under the terms of this event.` : '';
  return `${back} you paid go back to where they came from; your bank may take a few days to show it.${rest}`;
}

async function cancel() {
  if (!confirm(await priceOfCancelling())) return;
  await call('PUT', `/api/bookings/${bookingId}/cancel`);
  await look();
}

at('cancel').addEventListener('click', ({ currentTarget: button }) => attempt(cancel, button));
at('kept').addEventListener('toggle', () => at('kept').open && attempt(listCards));
follow();
