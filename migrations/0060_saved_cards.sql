-- Buyers may keep the card they pay with, and pay with it again. Owner: payment-worker.
create table payment.customers (
    account_id bigint primary key,
    customer_id text unique,
    idempotency_key text not null unique,
    attempt integer not null default 1 check (attempt > 0),
    tries integer not null default 0 check (tries >= 0),
    asked_at timestamptz not null,
    updated_at timestamptz not null
);
comment on table payment.customers is 'Stripe''s Customer of an account, which keeps its cards. Only accounts that asked to keep one have a row. The row is written before Stripe is asked, with the key; nothing but the account''s id is sent.';
comment on column payment.customers.customer_id is 'Stripe''s id of it, cus_…; null until Stripe has said.';
comment on column payment.customers.idempotency_key is 'The key of the call that creates it. Whoever does not know what became of the call repeats it.';
comment on column payment.customers.attempt is 'A new attempt has a new key; it is only made when the outcome of the one before is known, or its customer was deleted at Stripe.';
comment on column payment.customers.tries is 'How often the key was sent, or was about to be.';
comment on column payment.customers.asked_at is 'When the key was written. It is not repeated when Stripe may have forgotten it.';

-- A PaymentIntent is given to a customer, so that its card is kept or a kept one pays.
alter table payment.operations drop constraint operations_kind_check;
alter table payment.operations add constraint operations_kind_check
    check (kind in ('create', 'capture', 'cancel', 'refund', 'assign'));
