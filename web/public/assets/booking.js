import { at, call, money, pause } from './api.js';
import { payWithStripe, payWithTestCard } from './pay.js';

const bookingId = location.pathname.split('/')[2];
const WORDS = {
  requested: 'We are looking for your seats…',
  held: 'Your seats are held for you. Pay to keep them.',
  confirmed: 'Your booking is confirmed.',
  rejected: 'No seats could be given.',
  expired: 'The time to pay ran out, so the seats went back on sale. Nothing was charged.',
  cancelled: 'This booking is cancelled. What was paid is refunded.',
};
const REASONS = {
  sold_out: 'Everything is sold or held by others.',
  not_adjacent: 'There are not so many seats next to each other.',
  limit_reached: 'You would have more tickets than one person may have.',
  sale_closed: 'The sale is closed.',
  seat_taken: 'Somebody else has one of these seats.',
  unknown_event: 'There is no such event.',
};

let formFor = null;

function problem(text) {
  at('problem').textContent = text || '';
  at('problem').hidden = !text;
}

function list(id, texts) {
  at(id).replaceChildren(
    ...texts.map((text) => {
      const item = document.createElement('li');
      item.textContent = text;
      return item;
    }),
  );
}

function seat({ section, row, number }) {
  return row ? `${section}, row ${row}, seat ${number}` : section;
}

function render(booking) {
  at('state').textContent = [WORDS[booking.state], REASONS[booking.reason]].filter(Boolean).join(' ');
  list('seats', (booking.seats || []).map(seat));
  at('total').textContent = booking.total ? `Total ${money(booking.total)}` : '';
  at('tickets').hidden = booking.state !== 'confirmed';
  list('codes', booking.ticket_codes || []);
  at('cancel').hidden = !['held', 'confirmed'].includes(booking.state);
  const due = booking.state === 'held' && booking.payment?.client_secret;
  at('pay').hidden = !due;
  if (due) offer(booking);
}

function offer(booking) {
  at('until').textContent = new Date(booking.hold_until).toLocaleTimeString();
  const { payment } = booking;
  if (formFor === payment.intent_id) return;
  formFor = payment.intent_id;
  const setUp = payment.api_url === 'https://api.stripe.com' ? payWithStripe : payWithTestCard;
  setUp(payment, problem);
}

async function follow() {
  for (;;) {
    try {
      const { booking } = await call('GET', `/api/bookings/${bookingId}`);
      render(booking);
      if (['rejected', 'expired', 'cancelled'].includes(booking.state)) return;
      await pause(booking.state === 'confirmed' ? 10000 : 1000);
    } catch (refused) {
      if (refused.status === 401 || refused.status === 404) {
        at('state').textContent = refused.message;
        return;
      }
      await pause(3000);
    }
  }
}

at('cancel').addEventListener('click', async () => {
  if (!confirm('Give these seats back?')) return;
  problem('');
  try {
    await call('PUT', `/api/bookings/${bookingId}/cancel`);
  } catch (refused) {
    problem(refused.message);
  }
});
follow();
