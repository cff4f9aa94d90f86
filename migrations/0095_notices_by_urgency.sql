-- Notices are claimed by kind, and news of events are written in chunks. Owner: notifier.
-- notifications_due stays for the version before, which claims by it.
create index notifications_due_by_kind on notifier.notifications (channel, kind, next_try_at)
    where state = 'waiting';
alter table notifier.notifications add column again_at timestamptz;
comment on column notifier.notifications.again_at is 'When staff last had it sent again; a server may put it off for days from then.';
comment on column notifier.notifications.state is 'waiting: to be sent, or claimed and not yet handed over; sending: being handed over, so that it may have been sent; sent: accepted by the server; uncertain: handed over, but no answer was recorded, so a person must decide; failed: refused for good; skipped: no longer true when its turn came, or told by another.';
comment on column notifier.notifications.next_try_at is 'Not before. A claim moves it to the end of its lease: what a process that died had in hand is due again then.';
comment on column notifier.notifications.leased_until is 'While sending: when nobody can be at it any more.';

create table notifier.announcements (
    id bigint generated always as identity primary key,
    event_id bigint not null,
    kind text not null check (kind in ('reminder', 'event_changed', 'event_cancelled')),
    occasion bigint not null,
    before jsonb,
    heard_at timestamptz not null,
    due_at timestamptz not null,
    tries integer not null default 0,
    written_up_to uuid,
    unique (event_id, kind, occasion)
);
comment on table notifier.announcements is 'News of an event for all who hold tickets of it, being written as notifications, some bookings at a time. A row goes when all are written.';
comment on column notifier.announcements.occasion is 'That of the notifications.';
comment on column notifier.announcements.before is 'For event_changed: what readers know of the event.';
comment on column notifier.announcements.heard_at is 'Whoever pays later knows already.';
comment on column notifier.announcements.due_at is 'Not before. A claim moves it by a minute, so that one that fails does not stop the others.';
comment on column notifier.announcements.tries is 'How often it was claimed: the fencing token of the one at work.';
comment on column notifier.announcements.written_up_to is 'The last booking whose readers have their notifications; null when none is written.';
create index bookings_to_tell on notifier.bookings (event_id, booking_id) where live;
