// Paying. Card data goes from the browser to Stripe, never to us.

import { at, attempt, call, pauseOrOnline } from './api.js';
import { chosenCard, offerCards } from './cards.js';

const SCRIPT_TRIES = 3;

/** Loads Stripe's script; a network that lost it once may bring it the next time. */
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

/** Stripe's own form, with 3-D Secure where the bank asks for it. Gives what pays. */
async function stripeTill(payment) {
  await stripeScript();
  const stripe = window.Stripe(payment.publishable_key);
  const elements = stripe.elements({ clientSecret: payment.client_secret });
  elements.create('payment').mount('#stripe-element');
  return async (isSaved) => {
    if (isSaved) return stripe.confirmCardPayment(payment.client_secret);
    // Whether the card is to be saved may have changed since the form was made.
    await elements.fetchUpdates();
    return stripe.confirmPayment({ elements, confirmParams: { return_url: location.href }, redirect: 'if_required' });
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
    return { error: { message: 'The bank can’t be reached. Wait a moment: if the payment went through after all, this page shows it.' } };
  }
}

/** A choice of test cards, for the stand-in. Gives what pays. */
function testTill(payment) {
  at('test-card').hidden = false;
  return async (isSaved) => {
    const wanted = { client_secret: payment.client_secret, return_url: location.href };
    if (!isSaved) wanted.payment_method = at('card').value;
    const answer = await post(payment, `/v1/payment_intents/${payment.intent_id}/confirm`, wanted);
    if (answer.status === 'requires_action' && confirm('Your bank asks: is this payment yours?')) {
      await post(payment, `/test/payment_intents/${payment.intent_id}/authenticate`, { outcome: 'success' });
    }
    return answer;
  };
}

let mayBeSaved = false;

/** Tells the server which saved card pays, or whether the new one is to be saved. */
async function tellCard(bookingId, savedCard) {
  const save = !savedCard && at('save').checked;
  const matters = savedCard || save || mayBeSaved;
  mayBeSaved ||= save;
  try {
    await call('PUT', `/api/bookings/${bookingId}/card`, { body: savedCard ? { saved_card: savedCard } : { save } });
    mayBeSaved = save;
  } catch (refused) {
    // To pay with a card that nobody asked to save takes Stripe alone.
    if (matters) throw refused;
  }
}

/** The form, and a button to try again while it can't be had: the hold runs on. */
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

/** Shows the form with which this payment is made. */
export async function openTill(bookingId, payment) {
  await offerCards();
  const pay = await till(payment);
  const form = at('pay-form');
  form.hidden = false;
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
