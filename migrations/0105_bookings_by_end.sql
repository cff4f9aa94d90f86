-- no-transaction. Ended bookings are swept by when they ended. Owner: booking-worker.
create index concurrently if not exists bookings_ended on booking.bookings (updated_at)
    where state in ('expired', 'cancelled');
