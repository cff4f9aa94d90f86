-- Whatever is mailed because of a message is published again when that message was lost. Owner: booking-worker.
create table booking.republished_news (
    booking_id uuid not null references booking.bookings (id),
    kind text not null check (kind in ('held', 'paid', 'ended', 'transferred')),
    number bigint not null default 0,
    republished_at timestamptz not null,
    primary key (booking_id, kind, number)
);
comment on table booking.republished_news is 'Bookings about which no notice had been written in time, and when the message that it follows from was last published again.';
comment on column booking.republished_news.kind is 'held: hold.placed.v1; paid: booking.paid.v1; ended: booking.expired.v1 or booking.cancelled.v1; transferred: ticket.transferred.v1.';
comment on column booking.republished_news.number is 'Of transferred: which of the booking''s changes of codes. Else 0.';

comment on table booking.republished is 'Of the version before, which published booking.paid.v1 again; to be dropped with the next migration that contracts.';

create index replaced_codes_at on booking.replaced_codes (replaced_at);
