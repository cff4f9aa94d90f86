-- A hold whose buyer is at the bank's page when it runs out is extended, once. Owner: booking-worker.
alter table booking.bookings add column extended_at timestamptz;
comment on column booking.bookings.extended_at is 'When the hold was extended because its payment was under way; a hold is extended once.';
