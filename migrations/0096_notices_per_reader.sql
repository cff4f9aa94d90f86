-- How much a reader was sent lately, and where accounts are asked for that were not heard of. Owners: notifier, box-office.
create index notifications_sent on notifier.notifications (account_id, channel, sent_at)
    where sent_at is not null;
create index accounts_phone on notifier.accounts (phone) where phone is not null;

create view box_office.public_contacts as
select a.id as account_id, a.version, a.email, a.name, a.phone from box_office.accounts a;
comment on view box_office.public_contacts is 'For the notifier: an account whose account.changed.v1 was lost, as in a failover to a standby that lagged. Look accounts up by id; it is told to nobody.';
