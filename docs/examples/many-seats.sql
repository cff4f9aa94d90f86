-- Fills a fresh database with many seats, and prints sizes and plans.
--
--   createdb onsale_many
--   ONSALE_DATABASE_URL=postgres://…/onsale_many onsale migrate
--   psql postgres://…/onsale_many -v events=400 -f docs/examples/many-seats.sql
--   dropdb onsale_many
--
-- Each event has 50,000 seats, so 400 events are 20 million and 10,000 are 500 million.
\set ON_ERROR_STOP on
\timing on
\if :{?events}
\else
    \set events 400
\endif

insert into booking.events (event_id, version, name, date, cancelled, max_tickets_per_account)
select n, 1, 'Event ' || n, now() + interval '90 days', false, 6 from generate_series(1, :events) as n;

insert into booking.sections (section_id, event_id, position, name, numbered, price_minor, currency)
select n * 10 + part, n, part, 'Block ' || part, true, 4500, 'eur'
from generate_series(1, :events) as n, generate_series(0, 4) as part;

-- An event at a time, as the booking worker lays them out.
select format(
    'insert into booking.seats (section_id, rank, row_label, number)
     select %s * 10 + part, row * 1000 + seat - 1, ''R'' || row, seat
     from generate_series(0, 4) as part, generate_series(0, 99) as row, generate_series(1, 100) as seat', n)
from generate_series(1, :events) as n \gexec

vacuum (analyze) booking.seats;

\echo 'Sizes'
select c.relname, pg_size_pretty(pg_relation_size(c.oid)) as size,
       round(pg_relation_size(c.oid)::numeric / nullif((select count(*) from booking.seats), 0), 1) as bytes_a_seat
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where n.nspname = 'booking' and (c.relname = 'seats' or c.oid in
      (select indexrelid from pg_index where indrelid = 'booking.seats'::regclass))
order by pg_relation_size(c.oid) desc;

\echo 'The foremost free seats of a section, as a batch reads them'
explain (analyze, buffers, costs off, timing off)
select s.section_id, s.id, s.rank, s.row_label, s.number
from unnest(array[(:events / 2) * 10]::bigint[], array[564]::bigint[]) as wanted (section_id, seats)
cross join lateral (
    select * from booking.seats s
    where s.section_id = wanted.section_id and s.state = 'available'
    order by s.rank limit wanted.seats
) s
order by s.section_id, s.rank;

\echo 'A batch of 50 bookings in events here and there: 125 seats held in one statement'
begin;
explain (analyze, buffers, costs off, timing off)
with free as materialized (
    select s.id, s.booking_id as was,
           ('00000000-0000-7000-8000-' || lpad((row_number() over (order by s.id) / 5)::text, 12, '0'))::uuid as booking_id
    from (select (1 + (n * 7919) % :events) * 10 as section_id from generate_series(1, 25) as n) wanted
    cross join lateral (
        select s.id, s.booking_id from booking.seats s
        where s.section_id = wanted.section_id and s.state = 'available' order by s.rank limit 5
    ) s
), held as (
    insert into booking.bookings (id, event_id, account_id, tickets, state, hold_until, created_at, updated_at)
    select distinct booking_id, 1, 1, 5, 'held', now() + interval '10 minutes', now(), now() from free
)
update booking.seats s set state = 'held', booking_id = free.booking_id from free where s.id = free.id;
commit;

\echo 'The seat map of one event'
explain (analyze, buffers, costs off, timing off)
select section_id, row_label, min(number), string_agg(left(state, 1), '' order by rank), array_agg(id order by rank)
from booking.public_seats where event_id = :events / 2
group by section_id, row_label order by section_id, min(rank);
