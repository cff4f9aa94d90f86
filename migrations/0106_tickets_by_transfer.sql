-- no-transaction. Transferred tickets are swept by when they were transferred. Owner: booking-worker.
create index concurrently if not exists tickets_replacing on booking.tickets (created_at)
    where replaces is not null;
