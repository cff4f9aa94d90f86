-- Guesses at passwords, and refreshes that may be repeated. Owner: box-office.
create table box_office.sign_in_attempts (
    address text not null check (length(address) between 1 and 254),
    place bytea not null check (length(place) in (0, 16)),
    attempts integer not null check (attempts > 0),
    next_at timestamptz not null,
    primary key (address, place)
);
comment on table box_office.sign_in_attempts is 'Backoff of sign-ins: an attempt counts before its password is checked, and the right password deletes the row.';
comment on column box_office.sign_in_attempts.address is 'Lower case; with or without an account.';
comment on column box_office.sign_in_attempts.place is 'A known place of the account (box_office.places); empty for attempts from anywhere else.';
comment on column box_office.sign_in_attempts.next_at is 'No attempt before this time.';
create index sign_in_attempts_age on box_office.sign_in_attempts (next_at);

create table box_office.places (
    account_id bigint not null references box_office.accounts (id) on delete cascade,
    place bytea not null check (length(place) = 16),
    seen_at timestamptz not null,
    primary key (account_id, place)
);
comment on table box_office.places is 'Networks from which an account signed in: guesses made elsewhere do not delay its owner there.';
comment on column box_office.places.place is 'HMAC of the network, cut to 128 bits: it can be recognised, not read.';
create index places_age on box_office.places (seen_at);

alter table box_office.sessions add column previous_hash bytea check (length(previous_hash) = 32);
alter table box_office.sessions add column rotated_at timestamptz;
comment on column box_office.sessions.refresh_hash is 'SHA-256 of the newest refresh token.';
comment on column box_office.sessions.previous_hash is 'SHA-256 of the refresh token before; for a short time after rotated_at it returns the newest again.';
comment on column box_office.sessions.rotated_at is 'When refresh_hash replaced previous_hash.';
comment on table box_office.sessions is 'Who stays signed in. Signing out, and a refresh token that was replaced some time ago, delete the row.';
