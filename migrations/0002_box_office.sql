-- Events, sales and accounts. Owner: box-office.
create schema box_office;

create table box_office.accounts (
    id bigint generated always as identity primary key,
    email text not null check (length(email) between 3 and 254),
    password_hash text not null,
    name text not null default '' check (length(name) <= 200),
    phone text check (phone ~ '^\+[1-9][0-9]{6,14}$'),
    roles text[] not null default '{customer}'
        check (roles <@ array['customer', 'organiser', 'operator', 'admin'] and cardinality(roles) > 0),
    version bigint not null default 1,
    created_at timestamptz not null,
    updated_at timestamptz not null
);
comment on column box_office.accounts.email is 'As the person wrote it; unique without regard to case.';
comment on column box_office.accounts.password_hash is 'Argon2id, PHC string format.';
comment on column box_office.accounts.phone is 'E.164.';
comment on column box_office.accounts.version is 'Grows with every change; carried by account.changed.v1.';
create unique index accounts_email on box_office.accounts (lower(email));
create index accounts_email_prefix on box_office.accounts (lower(email) text_pattern_ops);

create table box_office.sessions (
    id uuid primary key,
    account_id bigint not null references box_office.accounts (id) on delete cascade,
    generation integer not null default 1 check (generation > 0),
    refresh_hash bytea not null check (length(refresh_hash) = 32),
    created_at timestamptz not null,
    expires_at timestamptz not null
);
comment on table box_office.sessions is 'Who stays signed in. Signing out, and a refresh token that is used twice, delete the row.';
comment on column box_office.sessions.id is 'Random; seen only inside the session''s refresh tokens.';
comment on column box_office.sessions.generation is 'How many refresh tokens were given out.';
comment on column box_office.sessions.refresh_hash is 'SHA-256 of the newest refresh token, the only one that works.';
create index sessions_account on box_office.sessions (account_id);
create index sessions_expiry on box_office.sessions (expires_at);

create table box_office.events (
    id bigint generated always as identity primary key,
    version bigint not null default 1,
    name text not null check (length(name) between 1 and 200),
    date timestamptz not null,
    capacity integer not null check (capacity between 1 and 50000),
    description text not null default '' check (length(description) <= 10000),
    category text not null default '' check (length(category) <= 100),
    venue text not null default '' check (length(venue) <= 200),
    city text not null default '' check (length(city) <= 100),
    country text not null default '' check (country ~ '^([A-Z]{2})?$'),
    time_zone text not null default 'UTC',
    state text not null default 'announced' check (state in ('announced', 'cancelled')),
    max_tickets_per_account integer not null default 6 check (max_tickets_per_account between 1 and 1000),
    reminder_before_seconds integer default 86400 check (reminder_before_seconds between 60 and 31536000),
    created_by bigint references box_office.accounts (id) on delete set null,
    created_at timestamptz not null,
    updated_at timestamptz not null,
    search tsvector generated always as (
        setweight(to_tsvector('simple', name), 'A')
        || setweight(to_tsvector('simple', venue || ' ' || city || ' ' || category), 'B')
        || setweight(to_tsvector('simple', description), 'C')
    ) stored
);
comment on column box_office.events.version is 'Grows with every change; carried by event.changed.v1.';
comment on column box_office.events.capacity is 'The sum of its sections'' capacities.';
comment on column box_office.events.state is 'announced: takes place; cancelled: taken off the list.';
comment on column box_office.events.reminder_before_seconds is 'How long before the start a reminder is sent; null sends none.';
create index events_search on box_office.events using gin (search);
create index events_upcoming on box_office.events (date, id) where state = 'announced';
create index events_city on box_office.events (lower(city), date, id) where state = 'announced';
create index events_category on box_office.events (lower(category), date, id) where state = 'announced';
create index events_country on box_office.events (country, date, id) where state = 'announced';

create table box_office.sections (
    id bigint generated always as identity primary key,
    event_id bigint not null references box_office.events (id) on delete cascade,
    position integer not null,
    name text not null check (length(name) between 1 and 100),
    numbered boolean not null,
    capacity integer not null check (capacity between 1 and 50000),
    row_count integer check (row_count between 1 and 1000),
    seats_per_row integer check (seats_per_row between 1 and 1000),
    tier text not null check (length(tier) between 1 and 100),
    price_minor bigint not null check (price_minor between 0 and 4999999),
    currency text not null check (currency ~ '^[a-z]{3}$'),
    unique (event_id, name),
    check (
        (numbered and row_count is not null and seats_per_row is not null and capacity = row_count * seats_per_row)
        or (not numbered and row_count is null and seats_per_row is null)
    )
);
comment on column box_office.sections.position is 'Order in which sections are shown, from 0.';

create table box_office.sales (
    event_id bigint primary key references box_office.events (id) on delete cascade,
    version bigint not null default 1,
    opens_at timestamptz not null,
    closes_at timestamptz check (closes_at > opens_at),
    lobby_seconds integer not null default 900 check (lobby_seconds between 0 and 604800),
    rate_per_minute integer not null default 600 check (rate_per_minute between 0 and 600000),
    shopper_cap integer not null default 1000 check (shopper_cap between 0 and 1000000),
    claim_window_seconds integer not null default 120 check (claim_window_seconds between 5 and 3600),
    pass_seconds integer not null default 600 check (pass_seconds between 30 and 7200),
    hold_seconds integer not null default 600 check (hold_seconds between 5 and 7200),
    paused boolean not null default false,
    closed boolean not null default false,
    queue boolean not null default true,
    challenge boolean not null default false,
    message text not null default '' check (length(message) <= 500),
    updated_at timestamptz not null
);
comment on column box_office.sales.version is 'Grows with every change; carried by sale.changed.v1.';
comment on column box_office.sales.lobby_seconds is 'How long before the opening people may join.';
comment on column box_office.sales.rate_per_minute is 'Places called per minute.';
comment on column box_office.sales.shopper_cap is 'Most people who hold a pass at once.';
comment on column box_office.sales.claim_window_seconds is 'How long a called place may wait before it counts as a no-show.';
comment on column box_office.sales.queue is 'Whether booking needs a pass.';
comment on column box_office.sales.challenge is 'Whether joining the queue takes a solved challenge.';

create table box_office.audit_log (
    id bigint generated always as identity primary key,
    at timestamptz not null,
    actor bigint not null,
    action text not null,
    subject text not null,
    detail jsonb not null
);
comment on table box_office.audit_log is 'Every change by staff. Rows are only ever added.';
comment on column box_office.audit_log.actor is 'The account; 0 for the command line on the server.';
comment on column box_office.audit_log.action is 'Such as sale.change, event.create, account.roles.';
comment on column box_office.audit_log.subject is 'Such as sale:1.';
comment on column box_office.audit_log.detail is 'What changed: the new values.';
create index audit_log_subject on box_office.audit_log (subject, id desc);
