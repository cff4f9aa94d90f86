// Paying. Card data goes from the browser to Stripe, never to us.

import { at } from './api.js';

function stripeScript() {
  return new Promise((done, failed) => {
    const script = document.createElement('script');
    script.src = 'https://js.stripe.com/v3/';
    script.addEventListener('load', done);
    script.addEventListener('error', () => failed(new Error('Stripe could not be loaded.')));
    document.head.append(script);
  });
}

/** Stripe's own form, with 3-D Secure where the bank asks for it. */
export async function payWithStripe(payment, problem) {
  try {
    await stripeScript();
  } catch (failed) {
    return problem(failed.message);
  }
  const stripe = window.Stripe(payment.publishable_key);
  const elements = stripe.elements({ clientSecret: payment.client_secret });
  elements.create('payment').mount('#stripe-element');
  const form = at('stripe-form');
  form.hidden = false;
  form.onsubmit = async (submit) => {
    submit.preventDefault();
    problem('');
    const button = form.querySelector('button');
    button.disabled = true;
    const { error } = await stripe.confirmPayment({ elements, confirmParams: { return_url: location.href }, redirect: 'if_required' });
    button.disabled = false;
    if (error) problem(error.message);
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

/** A choice of test cards, for the stand-in. */
export function payWithTestCard(payment, problem) {
  const form = at('test-form');
  form.hidden = false;
  form.onsubmit = async (submit) => {
    submit.preventDefault();
    problem('');
    const button = form.querySelector('button');
    button.disabled = true;
    const intent = `/v1/payment_intents/${payment.intent_id}`;
    const wanted = { client_secret: payment.client_secret, payment_method: at('card').value, return_url: location.href };
    const answer = await post(payment, `${intent}/confirm`, wanted);
    if (answer.status === 'requires_action' && confirm('Your bank asks: is this payment yours?')) {
      await post(payment, `/test/payment_intents/${payment.intent_id}/authenticate`, { outcome: 'success' });
    }
    button.disabled = false;
    if (answer.error) problem(answer.error.message);
  };
}
