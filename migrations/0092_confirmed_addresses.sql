-- Addresses and phones whose owners confirmed them. Owner: box-office.
alter table box_office.accounts add column email_confirmed_at timestamptz;
alter table box_office.accounts add column phone_confirmed_at timestamptz;
-- Who had an account before codes were sent is not asked for one.
update box_office.accounts
set email_confirmed_at = created_at,
    phone_confirmed_at = case when phone is not null then created_at end;
comment on column box_office.accounts.email_confirmed_at is 'When a code that was mailed there came back; null: nothing but such codes is mailed there, and no ticket is transferred to it.';
comment on column box_office.accounts.phone_confirmed_at is 'When a code that was texted there came back; null: nothing but such codes is texted there.';

create table box_office.confirmations (
    account_id bigint not null references box_office.accounts (id) on delete cascade,
    channel text not null check (channel in ('email', 'sms')),
    nonce uuid not null,
    tries integer not null default 0 check (tries >= 0),
    asked_at timestamptz not null,
    asked integer not null default 1 check (asked > 0),
    since timestamptz not null,
    primary key (account_id, channel)
);
comment on table box_office.confirmations is 'The newest code that was sent to an address or phone.';
comment on column box_office.confirmations.nonce is 'The code is a MAC of it, the account and the address, so it is stored nowhere.';
comment on column box_office.confirmations.tries is 'Wrong codes since it was sent.';
comment on column box_office.confirmations.asked is 'Codes sent since `since`.';

create or replace view box_office.public_addresses as
select a.id as account_id, lower(a.email) as address from box_office.accounts a
where a.email_confirmed_at is not null;
comment on view box_office.public_addresses is 'For the booking worker: whose account a confirmed address is. Look one address up; it is told to nobody.';

create view box_office.public_unconfirmed as
select a.id as account_id, a.email_confirmed_at is null as email,
       a.phone is not null and a.phone_confirmed_at is null as phone
from box_office.accounts a
where a.email_confirmed_at is null or (a.phone is not null and a.phone_confirmed_at is null);
comment on view box_office.public_unconfirmed is 'For the notifier: accounts to whose address or phone nothing but a code may go.';
