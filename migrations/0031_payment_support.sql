-- Refund policies, what the reconciler finds, and a booking's timeline. Owner: payment-worker.
create table payment.refund_policies (
    event_id bigint primary key,
    until timestamptz,
    fee_percent integer not null default 0 check (fee_percent between 0 and 100),
    fee_minor bigint not null default 0 check (fee_minor >= 0),
    updated_at timestamptz not null,
    updated_by bigint not null
);
comment on table payment.refund_policies is 'What a buyer gets back who cancels. An event without a row gives everything back, always.';
comment on column payment.refund_policies.until is 'After it nothing goes back; null: no such time.';
comment on column payment.refund_policies.fee_percent is 'Kept of what was paid, rounded down; fee_minor comes on top.';
comment on column payment.refund_policies.updated_by is 'The account that set it.';

alter table payment.payments
    add column kept_minor bigint not null default 0 check (kept_minor >= 0),
    add constraint kept_within_captured check (refunded_minor + kept_minor <= captured_minor);
comment on column payment.payments.kept_minor is 'Of a cancelled booking: what its event''s policy does not give back.';

create table payment.findings (
    id uuid primary key,
    kind text not null check (kind in (
        'second_charge', 'unknown_charge', 'amount_differs', 'missing', 'dispute', 'refund_elsewhere', 'refund_failed')),
    subject text not null,
    booking_id uuid,
    detail text not null,
    found_at timestamptz not null,
    settled_at timestamptz,
    unique (kind, subject)
);
comment on table payment.findings is 'What has no one right answer, so that staff must look. One row per kind and subject, however often it is found.';
comment on column payment.findings.kind is 'second_charge: a booking was charged by two PaymentIntents; unknown_charge: charged for a booking that has no payment here; amount_differs: Stripe has another amount; missing: Stripe does not know what we have from it; dispute: the buyer asked the bank for the money; refund_elsewhere: refunded in Stripe''s dashboard while the tickets are good; refund_failed: the money came back, or a refund was refused.';
comment on column payment.findings.subject is 'Stripe''s id of what it is about.';
comment on column payment.findings.settled_at is 'When staff, or a later comparison, settled it.';
create index findings_open on payment.findings (found_at) where settled_at is null;
create index findings_booking on payment.findings (booking_id) where booking_id is not null;

alter table payment.webhook_inbox
    add column intent_id text generated always as (
        case payload #>> '{data,object,object}' when 'payment_intent' then payload #>> '{data,object,id}'
             else payload #>> '{data,object,payment_intent}' end) stored;
comment on column payment.webhook_inbox.intent_id is 'The PaymentIntent it is about.';
create index webhook_inbox_intent on payment.webhook_inbox (intent_id) where intent_id is not null;

create or replace view payment.public_payments as
select p.booking_id, p.state, p.intent_id, p.client_secret, p.amount_minor, p.currency,
       p.captured_minor, p.refunded_minor, p.last_error,
       (select r.state from payment.refunds r where r.booking_id = p.booking_id order by r.created_at desc limit 1)
           as refund_state,
       p.kept_minor
from payment.payments p;

-- Reads every owner's tables, for people; no program decides anything by it.
create schema support;

create view support.booking_timeline as
select r.booking_id, r.accepted_at as at, 'request' as part, 'requested' as what,
       jsonb_build_object('event_id', r.event_id, 'account_id', r.account_id, 'wish', r.wish) as detail
from admission.requests r
union all
select b.id, b.created_at, 'booking', case b.state when 'rejected' then 'rejected' else 'held' end,
       jsonb_strip_nulls(jsonb_build_object('event_id', b.event_id, 'account_id', b.account_id, 'tickets', b.tickets,
           'reason', b.reason, 'seats', b.seats, 'total_minor', b.total_minor, 'currency', b.currency,
           'hold_until', b.hold_until))
from booking.bookings b
union all
select b.id, b.ending_asked_at, 'booking', 'ending', jsonb_build_object('why', b.ending)
from booking.bookings b where b.ending is not null
union all
select t.booking_id, min(t.created_at), 'booking', 'confirmed', jsonb_build_object('tickets', count(*))
from booking.tickets t group by t.booking_id
union all
select b.id, b.captured_at, 'booking', 'paid', '{}'
from booking.bookings b where b.captured_at is not null
union all
select b.id, b.updated_at, 'booking', b.state, '{}'
from booking.bookings b where b.state in ('expired', 'cancelled')
union all
select p.booking_id, p.created_at, 'payment', 'due',
       jsonb_strip_nulls(jsonb_build_object('amount_minor', p.amount_minor, 'currency', p.currency,
           'intent_id', p.intent_id))
from payment.payments p
union all
select p.booking_id, p.updated_at, 'payment', p.state,
       jsonb_strip_nulls(jsonb_build_object('captured_minor', p.captured_minor, 'refunded_minor', p.refunded_minor,
           'kept_minor', p.kept_minor, 'void_reason', p.void_reason, 'last_error', p.last_error))
from payment.payments p
union all
select o.booking_id, o.created_at, 'stripe call', o.kind || ' asked',
       jsonb_build_object('key', o.idempotency_key, 'attempt', o.attempt)
from payment.operations o
union all
select o.booking_id, o.updated_at, 'stripe call', o.kind || ' ' || o.state,
       jsonb_strip_nulls(jsonb_build_object('key', o.idempotency_key, 'tries', o.tries, 'last_error', o.last_error,
           'next_try_at', case o.state when 'pending' then o.next_try_at end))
from payment.operations o where o.tries > 0 or o.state <> 'pending'
union all
select r.booking_id, r.created_at, 'refund', 'asked',
       jsonb_build_object('amount_minor', r.amount_minor, 'currency', r.currency, 'occasion', r.occasion)
from payment.refunds r
union all
select r.booking_id, r.updated_at, 'refund', r.state,
       jsonb_strip_nulls(jsonb_build_object('amount_minor', r.amount_minor, 'stripe_refund_id', r.stripe_refund_id,
           'last_error', r.last_error))
from payment.refunds r where r.state <> 'pending' or r.stripe_refund_id is not null
union all
select p.booking_id, w.received_at, 'webhook', w.type,
       jsonb_strip_nulls(jsonb_build_object('event_id', w.event_id, 'applied_at', w.processed_at, 'note', w.note,
           'error', w.payload #>> '{data,object,last_payment_error,message}'))
from payment.payments p join payment.webhook_inbox w using (intent_id)
union all
select f.booking_id, f.found_at, 'finding', f.kind,
       jsonb_strip_nulls(jsonb_build_object('subject', f.subject, 'detail', f.detail, 'settled_at', f.settled_at))
from payment.findings f where f.booking_id is not null
union all
select n.booking_id, coalesce(n.sent_at, n.created_at), n.channel, n.kind || ' ' || n.state,
       jsonb_strip_nulls(jsonb_build_object('tries', n.tries, 'last_error', n.last_error))
from notifier.notifications n;
comment on view support.booking_timeline is 'Everything that is known of a booking, for support: ask with booking_id, order by at.';
