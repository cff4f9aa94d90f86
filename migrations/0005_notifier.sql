-- Mail and SMS. Owner: notifier.
create schema notifier;

create table notifier.accounts (
    account_id bigint primary key,
    version bigint not null,
    email text not null,
    name text not null,
    phone text
);
comment on table notifier.accounts is 'Where messages go, from account.changed.v1.';

create table notifier.events (
    event_id bigint primary key,
    version bigint not null,
    event jsonb not null,
    starts_at timestamptz not null,
    remind_at timestamptz,
    reminded_for timestamptz,
    cancelled boolean not null
);
comment on table notifier.events is 'What messages say about an event, from event.changed.v1.';
comment on column notifier.events.event is 'The event as it was told.';
comment on column notifier.events.remind_at is 'When reminders become due; null for none.';
comment on column notifier.events.reminded_for is 'The start for which reminders were written. An event that moves gets new ones.';
create index events_reminders on notifier.events (remind_at)
    where not cancelled and reminded_for is distinct from starts_at;

create table notifier.bookings (
    booking_id uuid primary key,
    event_id bigint not null,
    account_id bigint not null,
    live boolean not null,
    facts jsonb not null
);
comment on column notifier.bookings.facts is 'The booking and its tickets, copied into each message about them.';
comment on table notifier.bookings is 'Paid bookings, for reminders and news about their event. live turns false for good when the booking is cancelled.';
create index bookings_event on notifier.bookings (event_id) where live;

create table notifier.notifications (
    id uuid primary key default gen_random_uuid(),
    booking_id uuid not null,
    event_id bigint not null,
    account_id bigint not null,
    kind text not null check (kind in (
        'held', 'confirmed', 'expired', 'cancelled', 'refunded', 'reminder', 'event_changed', 'event_cancelled')),
    occasion bigint not null default 0,
    channel text not null check (channel in ('email', 'sms')),
    facts jsonb not null,
    state text not null check (state in ('waiting', 'sending', 'sent', 'uncertain', 'failed', 'skipped')),
    tries integer not null default 0,
    next_try_at timestamptz not null,
    leased_until timestamptz,
    last_error text,
    created_at timestamptz not null,
    sent_at timestamptz,
    unique (booking_id, kind, occasion, channel),
    check ((state = 'sent') = (sent_at is not null))
);
comment on table notifier.notifications is 'One message to send (I6).';
comment on column notifier.notifications.occasion is 'Tells apart messages of a kind that may come again: the event''s version for event_changed and event_cancelled; the start, in Unix seconds, for reminder; else 0.';
comment on column notifier.notifications.facts is 'What the message says, beside the event as it is when it is sent.';
comment on column notifier.notifications.state is 'waiting: to be sent; sending: being handed to the server; sent: accepted by the server; uncertain: handed over, but no answer was recorded, so a person must decide; failed: refused for good; skipped: no longer true when its turn came.';
comment on column notifier.notifications.tries is 'How often sending was begun. With the id it names one try, so that a late result is recorded only for its own.';
comment on column notifier.notifications.leased_until is 'While sending: when nobody can be at it any more.';
create index notifications_due on notifier.notifications (channel, next_try_at) where state = 'waiting';
create index notifications_sending on notifier.notifications (leased_until) where state = 'sending';
create index notifications_unsettled on notifier.notifications (state)
    where state in ('waiting', 'sending', 'uncertain', 'failed');
