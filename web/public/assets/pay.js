// Payment. Card data goes from the browser to Stripe, never to us.

import { at, attempt, call, pauseOrOnline, problem } from './api.js';
import { chosenCard, offerCards } from './cards.js';

const SCRIPT_TRIES = 3;

/** The return URL for the bank and Stripe: this page, without query. */
const here = () => location.origin + location.pathname;

/**
 * The bank's result, `succeeded`, `failed` or null. Removed from the URL at once, along with the
 * payment's secret, so that neither a reload nor a copied link has them.
 */
let bankResult = new URLSearchParams(location.search).get('redirect_status');
if (bankResult) history.replaceState(null, '', here());

/** Loads Stripe's script, with retries. */
async function stripeScript() {
  for (let tries = 1; !window.Stripe; tries++) {
    try {
      await loadOnce();
    } catch (failure) {
      if (tries === SCRIPT_TRIES) throw failure;
      await pauseOrOnline(1000 * tries);
    }
  }
}

function loadOnce() {
  return new Promise((done, failed) => {
    const script = document.createElement('script');
    script.src = 'https://js.stripe.com/v3/';
    script.addEventListener('load', done);
    script.addEventListener('error', () => {
      script.remove();
      failed(new Error('The payment form of Stripe could not be loaded.'));
    });
    document.head.append(script);
  });
}

/** Mounts Stripe's form, with 3-D Secure where the bank asks for it. Returns a function that pays. */
async function stripeTill(payment) {
  await stripeScript();
  const stripe = window.Stripe(payment.publishable_key);
  const elements = stripe.elements({ clientSecret: payment.client_secret });
  elements.create('payment').mount('#stripe-element');
  return async (isSaved) => {
    if (isSaved) return stripe.confirmCardPayment(payment.client_secret);
    // Saving the card may have been chosen after the form was mounted.
    await elements.fetchUpdates();
    return stripe.confirmPayment({ elements, confirmParams: { return_url: here() }, redirect: 'if_required' });
  };
}

async function post(payment, path, form) {
  try {
    const answer = await fetch(`${payment.api_url}${path}`, {
      method: 'POST',
      headers: { authorization: `Bearer ${payment.publishable_key}` },
      body: new URLSearchParams(form),
    });
    return await answer.json();
  } catch {
    return {
      error: new Error(
        'The bank can’t be reached. Wait a moment: if the payment went through after all, this page shows it.',
      ),
    };
  }
}

/** Shows test cards, for the stand-in. Returns a function that pays. */
function testTill(payment) {
  at('test-card').hidden = false;
  return async (isSaved) => {
    const wanted = { client_secret: payment.client_secret, return_url: here() };
    if (!isSaved) wanted.payment_method = at('card').value;
    const answer = await post(payment, `/v1/payment_intents/${payment.intent_id}/confirm`, wanted);
    const bank = answer.next_action?.redirect_to_url?.url;
    if (bank) location.assign(bank);
    return answer;
  };
}

let mayBeSaved = false;

/** Records which saved card pays, or whether to save the new one. */
async function tellCard(bookingId, savedCard) {
  const save = !savedCard && at('save').checked;
  const matters = savedCard || save || mayBeSaved;
  mayBeSaved ||= save;
  try {
    await call('PUT', `/api/bookings/${bookingId}/card`, { body: savedCard ? { saved_card: savedCard } : { save } });
    mayBeSaved = save;
  } catch (refused) {
    // Paying with a card that is not to be saved needs Stripe only.
    if (matters) throw refused;
  }
}

/** Mounts the form, with a button to retry while it fails to load, since the hold is running. */
async function till(payment) {
  if (payment.api_url !== 'https://api.stripe.com') return testTill(payment);
  for (;;) {
    try {
      return await stripeTill(payment);
    } catch (failure) {
      at('till-failure').textContent = failure.message;
      at('till-failed').hidden = false;
      await new Promise((done) => at('till-again').addEventListener('click', done, { once: true }));
      at('till-failed').hidden = true;
    }
  }
}

/** Shows the form for a payment, and why the bank refused an earlier try. */
export async function openTill(bookingId, payment) {
  const word = bankResult;
  bankResult = null;
  await offerCards();
  const pay = await till(payment);
  const form = at('pay-form');
  // Stripe's webhook arrives within a second; meanwhile nobody should pay again.
  form.hidden = word === 'succeeded';
  if (form.hidden)
    setTimeout(() => {
      form.hidden = false;
    }, 10000);
  if (word === 'failed')
    problem('Your bank did not confirm the payment, so nothing was charged. Try again, or pay with another card.');
  form.onsubmit = (submit) => {
    submit.preventDefault();
    const card = chosenCard();
    attempt(async () => {
      await tellCard(bookingId, card);
      const { error } = await pay(Boolean(card));
      if (error) throw error;
    }, at('pay-button'));
  };
}
