-- News whose message was lost are published again. Owners: notifier, booking-worker, payment-worker.
create view notifier.public_notices as
select n.booking_id, n.account_id, n.kind, n.occasion from notifier.notifications n;
comment on view notifier.public_notices is 'For the booking and the payment worker: notices that were written, whatever became of them. Those of events that began less than 31 days ago are all there.';

create table booking.republished (
    booking_id uuid primary key references booking.bookings (id),
    republished_at timestamptz not null
);
comment on table booking.republished is 'Paid bookings for which no ticket mail had been written in time, and when booking.paid.v1 was last published again.';

alter table payment.refunds add column republished_at timestamptz;
comment on column payment.refunds.republished_at is 'When its outcome was last published again, because no mail about it had been written in time.';
