// The ticket terms of an event, for its organiser.

import { at, attempt, call, write } from './api.js';

let event = null;

/** Shows the terms of an event, or none. */
export function terms(shown) {
  event = shown;
  at('terms').hidden = !event;
  at('transfer').checked = Boolean(event?.ticket_transfer);
  write('terms-done', '');
}

at('terms-form').addEventListener('submit', (submit) => {
  submit.preventDefault();
  write('terms-done', '');
  attempt(async () => {
    // The whole event as it was read, with its version (optimistic concurrency).
    const body = { ...event, ticket_transfer: at('transfer').checked };
    const answer = await call('PUT', `/api/events/${event.id}`, { body });
    event = answer.event;
    write(
      'terms-done',
      event.ticket_transfer ? 'Saved. Tickets can be transferred.' : 'Saved. Tickets can’t be transferred.',
    );
  }, submit.submitter);
});
