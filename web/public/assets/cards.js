// Saved cards: choosing one to pay with, and removing them.

import { at, attempt, call, list } from './api.js';

const BRANDS = {
  visa: 'Visa',
  mastercard: 'Mastercard',
  amex: 'American Express',
  diners: 'Diners Club',
  jcb: 'JCB',
  unionpay: 'UnionPay',
};

function name({ brand, last4, exp_month: month, exp_year: year }) {
  const known = BRANDS[brand] || brand.charAt(0).toUpperCase() + brand.slice(1).replaceAll('_', ' ');
  return `${known} ending in ${last4}, expires ${String(month).padStart(2, '0')}/${year}`;
}

async function savedCards() {
  return (await call('GET', '/api/saved-cards')).saved_cards;
}

/** A card, shown as `shown`, with a button that removes it and then calls `done`. */
function removable(card, shown, done) {
  const row = document.createElement('div');
  const remove = document.createElement('button');
  row.className = 'saved';
  remove.type = 'button';
  remove.className = 'plain';
  remove.textContent = 'Remove';
  remove.setAttribute('aria-label', `Remove the saved card ${name(card)}`);
  remove.addEventListener('click', () => {
    if (!confirm(`Remove ${name(card)}? It can’t be used here any more.`)) return;
    attempt(async () => {
      await call('DELETE', `/api/saved-cards/${card.id}`);
      await done();
    }, remove);
  });
  row.append(shown, remove);
  return row;
}

/** The id of the chosen saved card, or null for another card. */
export function chosenCard() {
  return at('pay-form').elements.with.value || null;
}

function showNewCard() {
  at('new-card').hidden = chosenCard() !== null;
}

function choice(card, isFirst) {
  const label = document.createElement('label');
  const radio = document.createElement('input');
  label.className = 'choice';
  radio.type = 'radio';
  radio.name = 'with';
  radio.value = card.id;
  radio.checked = isFirst;
  label.append(radio, name(card));
  return removable(card, label, async () => {
    await offerCards();
    at('another').checked = true;
    showNewCard();
    // The focused element is gone.
    (at('cards').hidden ? at('pay-button') : at('another')).focus();
  });
}

/** Offers the saved cards, the newest preselected; none if they can't be read. */
export async function offerCards() {
  const cards = await savedCards().catch(() => []);
  at('saved-cards').replaceChildren(...cards.map((card, n) => choice(card, n === 0)));
  at('cards').hidden = cards.length === 0;
  if (cards.length === 0) at('another').checked = true;
  at('cards').onchange = showNewCard;
  showNewCard();
}

/** Lists the saved cards where no payment is due. */
export async function listCards() {
  const cards = await savedCards();
  at('none-kept').hidden = cards.length > 0;
  list('kept-cards', cards, (card) => {
    const shown = document.createElement('span');
    shown.textContent = name(card);
    return removable(card, shown, async () => {
      await listCards();
      at('kept').firstElementChild.focus();
    });
  });
}
