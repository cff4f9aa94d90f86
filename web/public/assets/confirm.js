// The field for the code that confirms the address of an account.

import { at, call, duration, session, store, stored, write } from './api.js';

/** The id of an account of this browser whose address is unconfirmed. */
const UNCONFIRMED = 'onsale.unconfirmed';

/** What each page has in its `#confirm`. */
const FORM = `<h2 id="confirm-title">Confirm your email address</h2>
<form id="confirm-form">
<p>We sent six digits to <strong><bdi id="confirm-address"></bdi></strong>. Tickets and other mails are sent there once you have entered them.</p>
<label for="confirm-code">Code from the mail</label>
<div class="beside"><input id="confirm-code" class="code" inputmode="numeric" autocomplete="one-time-code" required maxlength="12" pattern="\\s*([0-9]\\s*){6}" title="Six digits" aria-describedby="confirm-problem">
<button class="plain">Confirm</button></div>
<p id="confirm-problem" class="error" role="alert" hidden></p>
<button type="button" id="confirm-again" class="plain">Send another code</button>
</form>
<p id="confirm-text" class="quiet" role="status"></p>`;

/** Shows the field while the address of the signed-in account is unconfirmed. */
export async function askToConfirm() {
  const { account } = await call('GET', '/api/accounts/me');
  store(UNCONFIRMED, account.email_confirmed ? null : account.id);
  write('confirm-address', account.email);
  at('confirm').hidden = account.email_confirmed;
  sayMailed(account.email_confirmed);
}

/** Shows what a page says about mails that go out already. */
function sayMailed(isMailed) {
  for (const line of document.querySelectorAll('.mailed')) line.toggleAttribute('hidden', !isMailed);
}

function refuse(text) {
  write('confirm-problem', text);
  at('confirm-problem').hidden = !text;
  if (text) at('confirm-code').setAttribute('aria-invalid', 'true');
  else at('confirm-code').removeAttribute('aria-invalid');
}

/** Runs an action with both buttons disabled, and shows its error beside the field. */
async function attemptHere(action, words) {
  const buttons = at('confirm-form').querySelectorAll('button');
  refuse('');
  write('confirm-text', '');
  for (const button of buttons) button.disabled = true;
  try {
    await action();
  } catch (failure) {
    refuse(words(failure));
  } finally {
    for (const button of buttons) button.disabled = false;
  }
}

async function confirmAddress() {
  await call('POST', '/api/accounts/confirmations', { body: { code: at('confirm-code').value.replace(/\D/g, '') } });
  store(UNCONFIRMED, null);
  sayMailed(true);
  at('confirm-form').hidden = true;
  write('confirm-text', 'Thank you. Your address is confirmed.');
  // The focused element is gone.
  at('confirm-title').tabIndex = -1;
  at('confirm-title').focus();
}

function whyNot({ message, problem }) {
  const { tries_left: left } = problem;
  if (left === undefined) return message;
  if (left === 0) return 'The code is wrong, and it can’t be tried again. Ask for another one.';
  return `The code is wrong. You can try ${left === 1 ? 'once' : `${left} times`} more.`;
}

async function sendAnother() {
  try {
    await call('POST', '/api/accounts/confirmations/codes', { body: {} });
  } catch (failure) {
    // Confirmed meanwhile, on another device.
    if (failure.status !== 409) throw failure;
    return askToConfirm();
  }
  at('confirm-code').value = '';
  write('confirm-text', 'Another code is on its way. Only the newest one works.');
}

function whyNoOther({ kind, message, retryAfter }) {
  return kind === 'rate-limited' && retryAfter
    ? `A code was sent already. Another can be sent in ${duration(retryAfter / 1000)}.`
    : message;
}

at('confirm').insertAdjacentHTML('beforeend', FORM);
at('confirm-form').addEventListener('submit', (submit) => {
  submit.preventDefault();
  attemptHere(confirmAddress, whyNot);
});
at('confirm-again').addEventListener('click', () => attemptHere(sendAnother, whyNoOther));
// Optional: the page works without it.
if (stored(UNCONFIRMED) !== null && stored(UNCONFIRMED) === session()?.account_id) askToConfirm().catch(() => {});
