// Texts for states and reasons of bookings, refunds and tickets.

import { isolated } from './api.js';

export const STATES = {
  requested: 'We are looking for your seats…',
  held: 'Your seats are held for you. Pay to keep them.',
  confirmed: 'Your booking is confirmed.',
  rejected: 'No seats could be held for you.',
  expired: 'The seats went back on sale, because they were not paid. Nothing was charged.',
  cancelled: 'This booking is cancelled.',
};

export const REASONS = {
  sold_out: 'Everything is sold or held by others.',
  not_adjacent: 'Not enough adjacent seats are free.',
  mixed_currencies: 'These seats are priced in different currencies. Choose seats in one.',
  limit_reached: 'You would have more tickets than are allowed for one person.',
  sale_closed: 'The sale is closed.',
  payment_refused:
    'The payment provider refused to take this payment, which is no fault of yours. Nothing was charged; the seats went back on sale, and we are looking into it.',
  seat_taken: 'Somebody else has one of these seats.',
  timed_out: 'It took too long. Please try again.',
  hold_used_up: 'You held tickets without paying for them. Try again in half an hour.',
  unknown_event: 'There is no such event.',
};

export const REFUNDS = {
  pending: 'Your refund is on its way.',
  succeeded: 'Your money was refunded to your card.',
  failed: 'Your bank did not accept the refund; we will write to you.',
};

export const TICKETS = {
  valid: 'Valid: show this code at the entrance.',
  checked_in: 'Used.',
  cancelled: 'Cancelled: no longer valid.',
  transferred: 'Transferred to somebody else.',
};

/** The name of a seat. */
export const seatName = ({ section, row, number }) =>
  row ? `${isolated(section)}, row ${isolated(row)}, seat ${number}` : isolated(section);

export const PAYMENTS = {
  authorised: 'Your bank has agreed. We are making your tickets…',
  requires_action: 'Your bank asks you to confirm the payment.',
};
