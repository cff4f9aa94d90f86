-- Price tiers by name, and requests that mix them. Owner: booking-worker.
alter table booking.sections add column tier_name text not null default 'Standard';
comment on column booking.sections.tier_name is 'The name of its price tier: a request may ask for a tier instead of a section.';

alter table booking.bookings drop constraint bookings_reason_check;
alter table booking.bookings add constraint bookings_reason_check
    check (reason in ('sold_out', 'not_adjacent', 'mixed_currencies', 'limit_reached', 'sale_closed', 'seat_taken', 'unknown_event'));
comment on column booking.bookings.reason is 'Why no seats were given; mixed_currencies: the seats asked for together are priced in several.';

-- An answer is written into the row of its key a moment after the key: room in the page makes that
-- an update in place, without new entries in the indexes.
alter table platform.idempotency_keys set (fillfactor = 40);
