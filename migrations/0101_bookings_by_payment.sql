-- no-transaction. Paid bookings are swept by when they were paid. Owner: booking-worker.
create index concurrently if not exists bookings_paid on booking.bookings (captured_at)
    where state = 'confirmed' and captured_at is not null;
