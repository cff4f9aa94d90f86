-- The booking API's own records. Owner: admission.
create schema admission;

create table admission.sales (
    event_id bigint primary key,
    version bigint not null,
    settings jsonb not null,
    updated_at timestamptz not null default clock_timestamp()
);
comment on table admission.sales is 'The sale''s settings, from sale.changed.v1; each node reads what changed.';
comment on column admission.sales.updated_at is 'By the database''s clock, so that readers need not agree on the time.';
create index sales_updated on admission.sales (updated_at);

create table admission.requests (
    booking_id uuid primary key,
    event_id bigint not null,
    account_id bigint not null,
    wish jsonb not null,
    tickets integer not null check (tickets > 0),
    request_key text unique check (length(request_key) between 1 and 300),
    published boolean not null default false,
    accepted_at timestamptz not null
);
comment on table admission.requests is 'Booking requests, written before they are published, so that an accepted one is never unknown.';
comment on column admission.requests.request_key is 'The caller and its Idempotency-Key: a repeat gets the same booking id, whatever became of the first try.';
comment on column admission.requests.published is 'RabbitMQ confirmed it, and no outcome came in time. Of the others either the outcome is known or the caller was told to try again.';
create index requests_account on admission.requests (account_id, booking_id desc) where published;
create index requests_accepted on admission.requests (accepted_at);
