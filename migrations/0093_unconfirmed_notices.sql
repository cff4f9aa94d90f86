-- Messages that wait for their reader to confirm the address. Owner: notifier.
create index notifications_unconfirmed on notifier.notifications (account_id)
    where state = 'waiting' and last_error = 'the address is not confirmed';
