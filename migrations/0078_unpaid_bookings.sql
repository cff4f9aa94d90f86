-- no-transaction. Bookings with tickets that nobody has said to be paid. Owner: booking-worker.
create index concurrently if not exists bookings_unpaid on booking.bookings (updated_at)
    where state = 'confirmed' and captured_at is null;
