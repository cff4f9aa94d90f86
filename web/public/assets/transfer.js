// Transferring a ticket.

import { attempt, call } from './api.js';

/**
 * A collapsed form that transfers the ticket with this code. `name` is unique among the tickets of a
 * page, `done` is called after the transfer.
 */
export function transferForm(code, name, done) {
  const details = document.createElement('details');
  const summary = document.createElement('summary');
  summary.textContent = 'Give this ticket to somebody else';
  const form = document.createElement('form');
  const label = document.createElement('label');
  const input = document.createElement('input');
  const button = document.createElement('button');
  const hint = document.createElement('p');
  input.type = 'email';
  input.required = true;
  input.maxLength = 254;
  input.autocomplete = 'off';
  input.id = `to-${name}`;
  hint.id = `hint-${name}`;
  label.htmlFor = input.id;
  label.textContent = 'The email address they sign in with';
  hint.className = 'quiet';
  hint.textContent = 'Your code stops working at once, and they get a new one. Only they can transfer the ticket back.';
  input.setAttribute('aria-describedby', hint.id);
  button.textContent = 'Transfer';
  form.append(label, input, hint, button);
  form.addEventListener('submit', (submit) => {
    submit.preventDefault();
    if (!confirm(`Give this ticket to ${input.value}? Your code stops working at once.`)) return;
    attempt(async () => {
      await call('POST', `/api/tickets/${code}/transfer`, { body: { to: input.value } });
      await done(input.value);
    }, button);
  });
  details.append(summary, form);
  return details;
}
