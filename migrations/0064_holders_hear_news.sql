-- Who holds a transferred ticket hears of its event. Owner: notifier.
-- A notifier of the version before can't write while this is in effect: it tries again, and what it
-- could not write is written by its successor.
alter table notifier.notifications drop constraint notifications_booking_id_kind_occasion_channel_key;
alter table notifier.notifications add constraint one_message_for_each_reader
    unique (booking_id, account_id, kind, occasion, channel);
comment on column notifier.notifications.account_id is 'Who reads it: the buyer, or who holds tickets of the booking.';
comment on column notifier.notifications.kind is 'transferred: a ticket was given to another account; received: to this one; withdrawn: the booking of a received ticket is cancelled; reminder, event_changed, event_cancelled: for each who holds tickets of the booking, the last also for the buyer who holds none any more. The others tell the buyer of the booking.';
comment on table notifier.holders is 'Who holds tickets that were transferred: they hear of the event, and when the booking is cancelled.';
comment on column notifier.bookings.facts is 'The booking, and those of its tickets that were never transferred. Copied into each message about them.';
