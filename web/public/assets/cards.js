// The cards a buyer has saved: choosing one, and removing it.

import { at, attempt, call } from './api.js';

const BRANDS = { visa: 'Visa', mastercard: 'Mastercard', amex: 'American Express', diners: 'Diners Club', jcb: 'JCB', unionpay: 'UnionPay' };

function name({ brand, last4, exp_month: month, exp_year: year }) {
  const known = BRANDS[brand] || brand.charAt(0).toUpperCase() + brand.slice(1).replaceAll('_', ' ');
  return `${known} ending in ${last4}, expires ${String(month).padStart(2, '0')}/${year}`;
}

/** The id of the saved card that is to pay, or null for another card. */
export function chosenCard() {
  return at('pay-form').elements.with.value || null;
}

function showNewCard() {
  at('new-card').hidden = chosenCard() !== null;
}

function choice(card, isFirst) {
  const row = document.createElement('div');
  const label = document.createElement('label');
  const radio = document.createElement('input');
  const remove = document.createElement('button');
  row.className = 'saved';
  label.className = 'choice';
  radio.type = 'radio';
  radio.name = 'with';
  radio.value = card.id;
  radio.checked = isFirst;
  label.append(radio, name(card));
  remove.type = 'button';
  remove.className = 'plain';
  remove.textContent = 'Remove';
  remove.setAttribute('aria-label', `Remove the saved card ${name(card)}`);
  remove.addEventListener('click', () => {
    if (!confirm(`Remove ${name(card)}? It can’t be used here any more.`)) return;
    attempt(async () => {
      await call('DELETE', `/api/saved-cards/${card.id}`);
      await offerCards();
      at('pay-form').elements.with.value = '';
      showNewCard();
      // What had the focus is gone.
      (at('cards').hidden ? at('pay-button') : at('another')).focus();
    }, remove);
  });
  row.append(label, remove);
  return row;
}

/** Shows the saved cards, the newest chosen; none when there are none, or they can't be read. */
export async function offerCards() {
  const { saved_cards: cards } = await call('GET', '/api/saved-cards').catch(() => ({ saved_cards: [] }));
  at('saved-cards').replaceChildren(...cards.map((card, n) => choice(card, n === 0)));
  at('cards').hidden = cards.length === 0;
  if (cards.length === 0) at('another').checked = true;
  at('cards').onchange = showNewCard;
  showNewCard();
}
