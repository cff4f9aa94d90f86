-- Rejects requests of accounts that hold seats without paying. Owner: booking-worker.
alter table booking.bookings drop constraint bookings_reason_check;
alter table booking.bookings add constraint bookings_reason_check
    check (reason in ('sold_out', 'not_adjacent', 'mixed_currencies', 'limit_reached', 'sale_closed', 'seat_taken',
                      'unknown_event', 'timed_out', 'hold_used_up')) not valid;
comment on column booking.bookings.reason is 'Why no seats were given; mixed_currencies: the seats asked for together are priced in several; timed_out: the request waited so long that its buyer has left; hold_used_up: the account held seats of the event without paying.';
