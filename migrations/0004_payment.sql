-- Payments and refunds. Owner: payment-worker. Others read the view at the end only.
create schema payment;

create table payment.payments (
    booking_id uuid primary key,
    event_id bigint,
    account_id bigint,
    amount_minor bigint not null default 0 check (amount_minor >= 0),
    currency text not null default 'eur' check (currency ~ '^[a-z]{3}$'),
    state text not null check (state in ('pending', 'requires_action', 'authorised', 'captured', 'failed', 'voided')),
    intent_id text unique,
    client_secret text,
    captured_minor bigint not null default 0,
    refunded_minor bigint not null default 0,
    void_reason text check (void_reason in ('hold_expired', 'cancelled')),
    last_error text,
    created_at timestamptz not null,
    updated_at timestamptz not null,
    checked_at timestamptz not null,
    constraint captured_within_amount check (captured_minor between 0 and amount_minor),
    constraint refunded_within_captured check (refunded_minor between 0 and captured_minor),
    check (state <> 'captured' or captured_minor > 0)
);
comment on table payment.payments is 'One payment per booking (I4). A void that arrives before its hold leaves a voided row, so that no intent is created afterwards.';
comment on column payment.payments.intent_id is 'Stripe''s PaymentIntent.';
comment on column payment.payments.refunded_minor is 'Sum of refunds that succeeded or are pending (I11).';
comment on column payment.payments.void_reason is 'Why it is to be given up, once that was asked; cancelled wins over hold_expired.';
comment on column payment.payments.last_error is 'Stripe''s last word on a declined attempt.';
comment on column payment.payments.checked_at is 'When it was last compared with Stripe, or created.';
create index payments_unsettled on payment.payments (checked_at)
    where intent_id is not null and state in ('pending', 'requires_action', 'authorised');

create table payment.refunds (
    id uuid primary key,
    booking_id uuid not null references payment.payments (booking_id),
    amount_minor bigint not null check (amount_minor > 0),
    currency text not null,
    state text not null check (state in ('pending', 'succeeded', 'failed')),
    stripe_refund_id text unique,
    occasion text not null,
    last_error text,
    created_at timestamptz not null,
    updated_at timestamptz not null,
    checked_at timestamptz not null,
    unique (booking_id, occasion)
);
comment on column payment.refunds.occasion is 'What the refund is for, such as cancelled: the same occasion is refunded once.';
comment on column payment.refunds.checked_at is 'When it was last compared with Stripe, or created.';
create index refunds_unsettled on payment.refunds (checked_at)
    where stripe_refund_id is not null and state = 'pending';

create table payment.operations (
    id uuid primary key,
    booking_id uuid not null references payment.payments (booking_id),
    kind text not null check (kind in ('create', 'capture', 'cancel', 'refund')),
    refund_id uuid references payment.refunds (id),
    attempt integer not null default 1 check (attempt > 0),
    idempotency_key text not null unique,
    params jsonb not null,
    state text not null check (state in ('pending', 'succeeded', 'failed')),
    tries integer not null default 0,
    next_try_at timestamptz not null,
    leased_until timestamptz,
    last_error text,
    created_at timestamptz not null,
    updated_at timestamptz not null,
    check ((kind = 'refund') = (refund_id is not null)),
    unique nulls not distinct (booking_id, kind, refund_id, attempt)
);
comment on table payment.operations is 'Each call to Stripe, written with its idempotency key before it is made.';
comment on column payment.operations.attempt is 'A new attempt has a new key; it is only made when the outcome of the one before is known.';
comment on column payment.operations.params is 'What is sent, so that a repeat is the same request.';
comment on column payment.operations.tries is 'Grows with each lease: who has an older number may record nothing.';
comment on column payment.operations.leased_until is 'Until then one worker is calling; afterwards another repeats the call with the same key.';
create index operations_due on payment.operations (next_try_at) where state = 'pending';
create unique index one_pending_operation on payment.operations (booking_id, kind, refund_id) nulls not distinct
    where state = 'pending';

create table payment.webhook_inbox (
    event_id text primary key,
    type text not null,
    payload jsonb not null,
    received_at timestamptz not null,
    processed_at timestamptz,
    tries integer not null default 0,
    next_try_at timestamptz not null,
    note text
);
comment on table payment.webhook_inbox is 'Verified webhooks, stored before Stripe gets its 2xx.';
comment on column payment.webhook_inbox.event_id is 'Stripe''s: an event delivered twice is stored once.';
comment on column payment.webhook_inbox.note is 'What came of it, or what stands in its way.';
create index webhook_inbox_due on payment.webhook_inbox (next_try_at) where processed_at is null;

create view payment.public_payments as
select p.booking_id, p.state, p.intent_id, p.client_secret, p.amount_minor, p.currency,
       p.captured_minor, p.refunded_minor, p.last_error,
       (select r.state from payment.refunds r where r.booking_id = p.booking_id order by r.created_at desc limit 1)
           as refund_state
from payment.payments p;
comment on view payment.public_payments is 'For admission: the payment as the owner of the booking sees it.';
