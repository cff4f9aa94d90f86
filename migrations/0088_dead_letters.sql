-- Owner: platform. Dead letters that somebody has looked at. RabbitMQ counts each look at a message
-- as a delivery, and from version 4 on removes it after some twenty; here they stay until they are
-- sent back or discarded.
create table platform.dead_letters (
    id uuid primary key,
    -- The queue it was meant for, within the namespace.
    queue text not null,
    message_id uuid not null,
    message_name text not null,
    body bytea not null,
    -- Why it was put aside.
    reason text not null,
    -- When; null when nobody wrote it down.
    died_at timestamptz,
    -- How often it was tried.
    attempts integer not null,
    traceparent text,
    stored_at timestamptz not null default now(),
    -- A copy that was stored and not acknowledged comes again.
    unique nulls not distinct (queue, message_id, died_at)
);

create index dead_letters_of_queue on platform.dead_letters (queue, stored_at);
