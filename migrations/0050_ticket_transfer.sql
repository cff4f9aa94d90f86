-- Tickets are transferred to other accounts. Owners: box-office, booking-worker, notifier.
alter table box_office.events add column ticket_transfer boolean not null default false;
comment on column box_office.events.ticket_transfer is 'Whether who has a ticket may transfer it to another account.';

create view box_office.public_addresses as
select a.id as account_id, lower(a.email) as address from box_office.accounts a;
comment on view box_office.public_addresses is 'For the booking worker: whose account an address is. Look one address up; it is told to nobody.';

alter table booking.events add column ticket_transfer boolean not null default false;
comment on column booking.events.ticket_transfer is 'Whether tickets may be transferred, from event.changed.v1.';

alter table booking.tickets add column transferred_at timestamptz;
alter table booking.tickets add column replaces uuid references booking.tickets (id) check (replaces <> id);
alter table booking.tickets add constraint a_transferred_ticket_is_worthless
    check (transferred_at is null or state = 'cancelled');
comment on column booking.tickets.account_id is 'Who holds it: first the buyer, then whom it was transferred to.';
comment on column booking.tickets.transferred_at is 'When its holder transferred it: this code is worthless since, and the ticket that replaces it has another.';
comment on column booking.tickets.replaces is 'The ticket that became this one by a transfer. Each is replaced once at most.';
create unique index one_replacement_per_ticket on booking.tickets (replaces) where replaces is not null;
-- Of the tickets of an account only those that changed hands: a sale adds none.
create index tickets_that_changed_hands on booking.tickets (account_id, id)
    where replaces is not null or transferred_at is not null;

create or replace view booking.public_bookings as
select b.id, b.event_id, b.account_id, b.tickets, b.state, b.reason, b.seats, b.total_minor, b.currency,
       b.hold_until, b.ending, b.created_at,
       coalesce((select jsonb_agg(t.code order by t.seat_id) from booking.tickets t
                 where t.booking_id = b.id and t.state <> 'cancelled' and t.account_id = b.account_id), '[]')
           as ticket_codes,
       coalesce((select jsonb_agg(t.seat_id order by t.seat_id) from booking.tickets t
                 where t.booking_id = b.id and t.state <> 'cancelled' and t.account_id <> b.account_id), '[]')
           as transferred_seats
from booking.bookings b;

alter table notifier.notifications drop constraint notifications_kind_check;
alter table notifier.notifications add constraint notifications_kind_check check (kind in (
    'held', 'confirmed', 'expired', 'cancelled', 'refunded', 'reminder', 'event_changed', 'event_cancelled',
    'transferred', 'received', 'withdrawn'));
comment on column notifier.notifications.kind is 'transferred: a ticket was given to another account; received: to this one; withdrawn: the booking of a received ticket is cancelled. The others tell the buyer of the booking.';
comment on column notifier.notifications.occasion is 'Tells apart messages of a kind that may come again: the event''s version for event_changed and event_cancelled; the start, in Unix seconds, for reminder; which of the booking''s refunds, or transfers; else 0.';

create table notifier.holders (
    booking_id uuid not null,
    seat_id bigint not null,
    number bigint not null,
    event_id bigint not null,
    account_id bigint not null,
    facts jsonb not null,
    primary key (booking_id, seat_id)
);
comment on table notifier.holders is 'Who holds tickets that were transferred: they hear when the booking is cancelled.';
comment on column notifier.holders.number is 'Which of the booking''s transfers was the last of this seat''s ticket.';

create or replace view support.booking_timeline as
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
from booking.tickets t where t.replaces is null group by t.booking_id
union all
select t.booking_id, t.created_at, 'ticket', 'transferred',
       jsonb_build_object('seat_id', t.seat_id, 'from', before.account_id, 'to', t.account_id)
from booking.tickets t join booking.tickets before on before.id = t.replaces
union all
select t.booking_id, t.checked_in_at, 'ticket', 'checked_in',
       jsonb_build_object('seat_id', t.seat_id, 'by', t.checked_in_by)
from booking.tickets t where t.checked_in_at is not null
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
