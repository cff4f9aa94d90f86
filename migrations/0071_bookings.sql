-- Layouts that hold while seats are taken, limits that count what was given away, codes that are
-- replaced, endings that are asked for with backoff. Owner: booking-worker.
-- A worker of the version before goes on: it leaves the new columns as they are. A layout counts
-- only for the version of the event that it came with.

alter table booking.sections
    add column layout_version bigint,
    add column layout_capacity integer check (layout_capacity >= 0),
    add column layout_rows integer check (layout_rows >= 0),
    add column layout_seats_per_row integer check (layout_seats_per_row >= 0);
comment on column booking.sections.layout_version is 'The version of the event that the layout came with; a layout of another version says nothing.';
comment on column booking.sections.layout_capacity is 'How many seats the section is to have: those that are taken beyond it go when they come back.';

create view booking.layouts as
select s.section_id, s.event_id, s.position, s.name, s.tier_name, s.numbered, s.price_minor, s.currency, s.offered,
       s.capacity, s.available, s.held, s.sold,
       case when s.layout_version = e.version then s.layout_capacity end as wanted,
       case when s.layout_version = e.version then s.layout_rows end as rows,
       case when s.layout_version = e.version then s.layout_seats_per_row end as seats_per_row
from booking.sections s join booking.events e using (event_id);
comment on view booking.layouts is 'For the booking worker: a section with the layout that its event has now; without one, its seats are the layout.';

alter table booking.account_tickets add column given_away integer not null default 0 check (given_away >= 0);
comment on column booking.account_tickets.given_away is 'How many live tickets the account bought that others hold: they count for its limit, too.';
insert into booking.account_tickets (event_id, account_id, tickets, given_away)
select b.event_id, b.account_id, 0, count(*)
from booking.tickets t join booking.bookings b on b.id = t.booking_id
where t.state <> 'cancelled' and t.account_id <> b.account_id and t.replaces is not null
group by b.event_id, b.account_id
on conflict (event_id, account_id) do update set given_away = excluded.given_away;

create table booking.replaced_codes (
    code text primary key,
    ticket_id uuid not null references booking.tickets (id),
    replaced_at timestamptz not null
);
comment on table booking.replaced_codes is 'Codes that their tickets had before their holders asked for another: the door refuses them, and says why.';
create index replaced_codes_ticket on booking.replaced_codes (ticket_id);

create view booking.public_full_accounts as
select a.event_id, a.account_id
from booking.account_tickets a join booking.events e using (event_id)
where a.tickets + a.given_away >= e.max_tickets_per_account;
comment on view booking.public_full_accounts is 'For admission, which ends their passes: who has as many tickets of an event as it allows.';

create view booking.public_starts as select event_id, date as starts_at from booking.events;
comment on view booking.public_starts is 'For the payment worker: when an event starts. Until then a buyer who cancels gets the money back, unless its policy says otherwise.';

alter table booking.bookings add column ending_due_at timestamptz;
comment on column booking.bookings.ending_due_at is 'When the payment worker is asked again. Each time it has twice as long to answer, up to some minutes.';

alter table booking.bookings drop constraint bookings_reason_check;
alter table booking.bookings add constraint bookings_reason_check
    check (reason in ('sold_out', 'not_adjacent', 'mixed_currencies', 'limit_reached', 'sale_closed', 'seat_taken',
                      'unknown_event', 'timed_out')) not valid;
comment on column booking.bookings.reason is 'Why no seats were given; mixed_currencies: the seats asked for together are priced in several; timed_out: the request waited so long that its buyer has left.';

create index events_cancelled on booking.events (event_id) where cancelled;

-- A hundred million dead rows are too many to wait for.
alter table booking.seats set (autovacuum_vacuum_scale_factor = 0.01, autovacuum_analyze_scale_factor = 0.01);
alter table booking.bookings set (autovacuum_vacuum_scale_factor = 0.01, autovacuum_analyze_scale_factor = 0.01);
alter table booking.tickets set (autovacuum_vacuum_scale_factor = 0.01, autovacuum_analyze_scale_factor = 0.01);
alter table booking.account_tickets set (autovacuum_vacuum_scale_factor = 0.01, autovacuum_analyze_scale_factor = 0.01);
-- Their rows change in place where the page has room, without new entries in the indexes.
alter table booking.seats set (fillfactor = 90);
alter table booking.bookings set (fillfactor = 80);
