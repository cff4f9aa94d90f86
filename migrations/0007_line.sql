-- The line of each sale. It is here, and not in Redis, because nothing of it may be forgotten.

-- Who joined. Owner: waiting-room.
create schema waiting_room;

create table waiting_room.lines (
    event_id bigint primary key,
    joined bigint not null default 0 check (joined >= 0),
    leavings bigint not null default 0 check (leavings >= 0),
    updated_at timestamptz not null default clock_timestamp()
);
comment on table waiting_room.lines is 'One row per sale that somebody joined. Its lock orders the joins and leavings of the sale.';
comment on column waiting_room.lines.joined is 'The highest number given.';
comment on column waiting_room.lines.leavings is 'The change of the last leaving.';
comment on column waiting_room.lines.updated_at is 'By the database''s clock: a reader that overlaps its reads by a few seconds misses no change.';
create index lines_updated on waiting_room.lines (updated_at);

create table waiting_room.numbers (
    event_id bigint not null,
    account_id bigint not null,
    number bigint not null check (number > 0),
    joined_at timestamptz not null,
    primary key (event_id, account_id),
    unique (event_id, number)
);
comment on table waiting_room.numbers is 'The number of each joiner (I8). Whoever joins again after theirs is used up gets a new one in the same row.';
comment on column waiting_room.numbers.account_id is 'The account; of an anonymous visitor a negative number that was drawn at random.';

create table waiting_room.leavings (
    event_id bigint not null,
    number bigint not null,
    change bigint not null,
    left_at timestamptz not null,
    primary key (event_id, number),
    unique (event_id, change)
);
comment on table waiting_room.leavings is 'Numbers whose holders left the line.';
comment on column waiting_room.leavings.change is 'Counts the leavings of the sale in the order of their commits: who has read up to one has missed none.';

create view waiting_room.public_lines as
select event_id, joined, leavings, updated_at from waiting_room.lines;
comment on view waiting_room.public_lines is 'For admission: how far the numbers have gone.';
create view waiting_room.public_numbers as
select event_id, account_id, number, joined_at from waiting_room.numbers;
comment on view waiting_room.public_numbers is 'For admission: who has which number.';
create view waiting_room.public_leavings as
select event_id, number, change from waiting_room.leavings;
comment on view waiting_room.public_leavings is 'For admission: who left.';

-- How the line moves. Owner: admission.
create table admission.leader (
    only_row boolean primary key default true check (only_row),
    node text not null,
    epoch bigint not null,
    leads_until timestamptz not null
);
comment on table admission.leader is 'The node whose release loop moves the lines, while its lease runs by the database''s clock.';
comment on column admission.leader.epoch is 'Grows with every change of leader. Each line remembers the highest that moved it, so a leader that was replaced without noticing can do nothing.';

create table admission.lines (
    event_id bigint primary key,
    fence bigint not null default 0,
    seq bigint not null default 0,
    cursor bigint not null default 0,
    snapshot jsonb not null
);
comment on table admission.lines is 'Where each sale''s line stands. The release leader moves it, guarded by the fence.';
comment on column admission.lines.fence is 'The epoch of the last leader that moved the line.';
comment on column admission.lines.seq is 'Grows with every snapshot that differs from the one before, and with every move.';
comment on column admission.lines.cursor is 'Places up to it were called, or passed while their holders were absent.';
comment on column admission.lines.snapshot is 'What everyone who waits is told.';

create table admission.moves (
    event_id bigint not null,
    seq bigint not null,
    at timestamptz not null,
    called bigint[] not null default '{}',
    missed bigint[] not null default '{}',
    claimed bigint[] not null default '{}',
    over bigint[] not null default '{}',
    left_numbers bigint[] not null default '{}',
    primary key (event_id, seq)
);
comment on table admission.moves is 'What happened in a line in one step of the release leader; written with the line of the same seq. Every node folds them in order.';
comment on column admission.moves.called is 'Runs of places called now: first, last, first, last, …';
comment on column admission.moves.missed is 'Places whose claim window went by.';
comment on column admission.moves.claimed is 'Places that claimed their pass.';
comment on column admission.moves.over is 'Places whose pass ended, was given back or revoked.';
comment on column admission.moves.left_numbers is 'Numbers whose holders left.';

create table admission.gates (
    event_id bigint primary key,
    changes bigint not null default 0,
    shopping integer not null default 0 check (shopping >= 0)
);
comment on table admission.gates is 'One row per sale that gave passes. Its lock orders the claims of the sale, so that the rate and the cap hold exactly (I9).';
comment on column admission.gates.changes is 'The change of the last claim or end of a pass.';
comment on column admission.gates.shopping is 'How many passes run.';

create table admission.claims (
    event_id bigint not null,
    place bigint not null check (place > 0),
    account_id bigint not null,
    jti uuid not null unique,
    claimed_at timestamptz not null,
    issued_at bigint not null,
    ends_at bigint not null,
    over_at timestamptz,
    change bigint not null,
    primary key (event_id, place),
    unique (event_id, change)
);
comment on table admission.claims is 'The pass of each place that claimed one: a place has at most one (I12).';
comment on column admission.claims.jti is 'The pass''s id.';
comment on column admission.claims.issued_at is 'iat of the pass, Unix seconds. With jti, ends_at and the account it gives the same bytes again.';
comment on column admission.claims.ends_at is 'exp of the pass, Unix seconds.';
comment on column admission.claims.over_at is 'When the slot came back: the pass ended, was given back or revoked.';
comment on column admission.claims.change is 'Counts claims and ends of the sale in the order of their commits; an end gives the row a new one.';
create index claims_running on admission.claims (event_id, ends_at) where over_at is null;
create index claims_account on admission.claims (event_id, account_id);

create table admission.claim_counts (
    event_id bigint not null,
    bucket bigint not null,
    claims integer not null check (claims > 0),
    primary key (event_id, bucket)
);
comment on table admission.claim_counts is 'Claims in each quarter of a second, kept for a little more than the minute that the rate is counted over.';
comment on column admission.claim_counts.bucket is 'Unix milliseconds divided by 250.';

create table admission.ready (
    event_id bigint not null,
    place bigint not null,
    since timestamptz not null,
    tried_at timestamptz not null,
    primary key (event_id, place)
);
comment on table admission.ready is 'Called places that came to claim when the rate or the cap was used up: the ready line, first come first served.';
comment on column admission.ready.since is 'When it came first.';
comment on column admission.ready.tried_at is 'When it came last: who does not come back soon loses the turn to the next.';

create table admission.draws (
    event_id bigint primary key,
    seed bytea not null check (length(seed) = 32),
    commitment bytea not null check (length(commitment) = 32),
    committed_at timestamptz not null,
    lobby bigint check (lobby >= 0),
    entropy text,
    entries_digest bytea check (length(entries_digest) = 32),
    drawn_at timestamptz,
    check ((drawn_at is null) = (lobby is null) and (drawn_at is null) = (entropy is null)
        and (drawn_at is null) = (entries_digest is null))
);
comment on table admission.draws is 'The lottery of each sale''s lobby.';
comment on column admission.draws.seed is 'Drawn at random and secret until the opening.';
comment on column admission.draws.commitment is 'SHA-256 of the seed, published before the lobby opens.';
comment on column admission.draws.lobby is 'How many numbers take part.';
comment on column admission.draws.entropy is 'What the announced public source showed; empty when none was announced.';
comment on column admission.draws.entries_digest is 'Fixes who had which number when the seed came into the open.';

create view admission.public_lines as
select event_id, seq, cursor, snapshot from admission.lines;
comment on view admission.public_lines is 'For waiting-room and box-office: the shared snapshot.';
create view admission.public_moves as
select event_id, seq, at, called, missed, claimed, over, left_numbers from admission.moves;
comment on view admission.public_moves is 'For waiting-room: what happened in the line.';
create view admission.public_draws as
select event_id, commitment, committed_at, lobby, entropy, entries_digest, drawn_at,
       case when drawn_at is not null then seed end as seed
from admission.draws;
comment on view admission.public_draws is 'For waiting-room: the lottery, its seed only once it is drawn.';
