-- What cancelled bookings cost, what is swept, and who sweeps. Owners: payment-worker, booking-worker, notifier.
alter table payment.payments
    add column kept_on_cancel_minor bigint,
    add column told_at timestamptz,
    add constraint kept_on_cancel_is_no_gift check (kept_on_cancel_minor >= 0) not valid;
comment on column payment.payments.kept_on_cancel_minor is 'What the event''s policy keeps of it, decided when its booking was cancelled; null while that is not decided. Holds also when the money is captured later.';
comment on column payment.payments.told_at is 'When a sweep last repeated what the payment is, because nothing followed from it.';

alter table payment.refund_policies add column fee_currency text check (fee_currency ~ '^[a-z]{3}$');
comment on column payment.refund_policies.fee_currency is 'What fee_minor is in; payments in other currencies pay fee_percent alone. Null: whatever was paid in.';

create table payment.refund_policy_history (
    event_id bigint not null,
    set_at timestamptz not null,
    until timestamptz,
    fee_percent integer not null,
    fee_minor bigint not null,
    fee_currency text,
    set_by bigint not null,
    primary key (event_id, set_at)
);
comment on table payment.refund_policy_history is 'Every policy an event had: a cancellation is settled by the one in force when it was asked for.';
insert into payment.refund_policy_history (event_id, set_at, until, fee_percent, fee_minor, set_by)
select event_id, updated_at, until, fee_percent, fee_minor, updated_by from payment.refund_policies;

-- A trigger, so that what a worker of the version before sets is remembered, too.
create function payment.remember_policy() returns trigger language plpgsql as $$
begin
    insert into payment.refund_policy_history as known
        (event_id, set_at, until, fee_percent, fee_minor, fee_currency, set_by)
    values (new.event_id, new.updated_at, new.until, new.fee_percent, new.fee_minor, new.fee_currency, new.updated_by)
    on conflict (event_id, set_at) do update
    set until = excluded.until, fee_percent = excluded.fee_percent, fee_minor = excluded.fee_minor,
        fee_currency = excluded.fee_currency, set_by = excluded.set_by;
    return null;
end $$;
create trigger policies_are_remembered after insert or update on payment.refund_policies
    for each row execute function payment.remember_policy();

create table payment.chores (
    name text primary key,
    due_at timestamptz not null
);
comment on table payment.chores is 'What one worker does for all: who moves due_at on does it.';
comment on column payment.chores.name is 'window: compare all that Stripe has of the last days; sweep: find what a lost message left; prune: delete what is too old to matter.';

create table payment.installation (
    id boolean primary key default true check (id),
    token uuid not null default gen_random_uuid()
);
comment on table payment.installation is 'One row. The token is in the metadata of each PaymentIntent: one Stripe account may serve several installations.';
insert into payment.installation default values;

alter table payment.findings drop constraint findings_kind_check;
alter table payment.findings add constraint findings_kind_check check (kind in (
    'second_charge', 'unknown_charge', 'unknown_authorisation', 'amount_differs', 'missing', 'dispute',
    'refund_elsewhere', 'refund_failed', 'creation_refused'));
comment on column payment.findings.kind is 'second_charge: a booking was charged by two PaymentIntents; unknown_charge: charged for a booking that has no payment here; unknown_authorisation: money is reserved for such a booking; amount_differs: Stripe has another amount; missing: Stripe does not know what we have from it; dispute: the buyer asked the bank for the money; refund_elsewhere: refunded in Stripe''s dashboard while the tickets are good; refund_failed: the money came back, or a refund was refused; creation_refused: Stripe takes no payments for an event, so nothing of it is sold.';
comment on column payment.findings.subject is 'Stripe''s id of what it is about; of creation_refused the event and the day.';

create table booking.cancellations (
    booking_id uuid primary key references booking.bookings (id),
    cancelled_by bigint,
    cancelled_at timestamptz not null
);
comment on table booking.cancellations is 'Confirmed bookings that were cancelled, for whoever must give their money back and did not hear of it.';
comment on column booking.cancellations.cancelled_by is 'The owner, or staff; null when its payment was impossible or its event is cancelled.';
create index cancellations_cancelled_at on booking.cancellations (cancelled_at);

create view booking.public_cancellations as
select c.booking_id, c.cancelled_by, c.cancelled_at from booking.cancellations c;
comment on view booking.public_cancellations is 'For the payment worker: confirmed bookings that were cancelled, by whom and when.';

create view booking.public_unpaid as
select b.id as booking_id, b.event_id, b.updated_at as confirmed_at
from booking.bookings b where b.state = 'confirmed' and b.captured_at is null;
comment on view booking.public_unpaid is 'For the payment worker: bookings with tickets that nobody has said to be paid. A few seconds each, unless something was lost.';

alter table booking.bookings
    add column end_reason text,
    add constraint known_end_reason check (end_reason in ('payment_refused')) not valid;
comment on column booking.bookings.end_reason is 'Why a hold ended before its time. payment_refused: the payment provider takes no payments for it.';

create view booking.public_end_reasons as
select b.id as booking_id, b.end_reason from booking.bookings b where b.end_reason is not null;
comment on view booking.public_end_reasons is 'For admission: why holds ended before their time.';

alter table notifier.notifications drop constraint notifications_kind_check;
alter table notifier.notifications add constraint notifications_kind_check check (kind in (
    'held', 'confirmed', 'expired', 'cancelled', 'refunded', 'refund_failed', 'reminder', 'event_changed',
    'event_cancelled', 'transferred', 'received', 'withdrawn')) not valid;
comment on column notifier.notifications.kind is 'transferred: a ticket was given to another account; received: to this one; withdrawn: the booking of a received ticket is cancelled; refund_failed: the bank did not take the money. The others tell the buyer of the booking.';
