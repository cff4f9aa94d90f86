-- What every service uses and none owns: messages to be sent, and answers to repeated requests.

CREATE SCHEMA platform;
COMMENT ON SCHEMA platform IS 'What every service uses and none owns';

CREATE TABLE platform.outbox (
    id uuid PRIMARY KEY,
    owner text NOT NULL,
    exchange text NOT NULL CHECK (exchange IN ('events', 'commands', 'outcomes')),
    routing_key text NOT NULL,
    message_name text NOT NULL,
    body jsonb NOT NULL,
    traceparent text,
    created_at timestamptz NOT NULL DEFAULT now(),
    available_at timestamptz NOT NULL DEFAULT now(),
    attempts integer NOT NULL DEFAULT 0
)
-- Rows live for milliseconds, so dead ones must go soon.
WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);

COMMENT ON TABLE platform.outbox IS
    'Messages written in the transaction that caused them. A relay sends each to RabbitMQ and then deletes it';
COMMENT ON COLUMN platform.outbox.id IS 'The message id, a UUID version 7: the same in every copy';
COMMENT ON COLUMN platform.outbox.owner IS 'The service whose relay sends it';
COMMENT ON COLUMN platform.outbox.exchange IS
    'Where to: events (what happened), commands (what is to be done), outcomes (answers to one node)';
COMMENT ON COLUMN platform.outbox.routing_key IS 'Which queues get it';
COMMENT ON COLUMN platform.outbox.message_name IS 'What it is, such as hold.placed.v1';
COMMENT ON COLUMN platform.outbox.body IS 'The message';
COMMENT ON COLUMN platform.outbox.traceparent IS 'The W3C trace it belongs to';
COMMENT ON COLUMN platform.outbox.created_at IS 'When it was written';
COMMENT ON COLUMN platform.outbox.available_at IS
    'When a relay may take it: the end of the lease of the one that took it last, or of a pause after a failure';
COMMENT ON COLUMN platform.outbox.attempts IS 'How often a relay has taken it';

CREATE INDEX outbox_available ON platform.outbox (owner, available_at, id);

CREATE TABLE platform.idempotency_keys (
    scope text NOT NULL,
    key text NOT NULL CHECK (length(key) BETWEEN 1 AND 255),
    request_hash bytea NOT NULL CHECK (length(request_hash) = 32),
    attempt uuid NOT NULL,
    status smallint CHECK (status BETWEEN 100 AND 599),
    body bytea,
    running_until timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (scope, key),
    CHECK ((status IS NULL) = (body IS NULL))
);

COMMENT ON TABLE platform.idempotency_keys IS
    'The first answer to each request that carried an Idempotency-Key, for its repeats';
COMMENT ON COLUMN platform.idempotency_keys.scope IS 'Whose key it is and for which route';
COMMENT ON COLUMN platform.idempotency_keys.key IS 'The key as the client sent it';
COMMENT ON COLUMN platform.idempotency_keys.request_hash IS
    'SHA-256 of the request: the same key with another request is refused';
COMMENT ON COLUMN platform.idempotency_keys.attempt IS
    'Which run of the request the row belongs to: only that one may finish it';
COMMENT ON COLUMN platform.idempotency_keys.status IS 'HTTP status of the answer; null while the request runs';
COMMENT ON COLUMN platform.idempotency_keys.body IS 'Body of the answer; null while the request runs';
COMMENT ON COLUMN platform.idempotency_keys.running_until IS
    'After this a request without an answer is taken for crashed, and a repeat runs it again';
COMMENT ON COLUMN platform.idempotency_keys.expires_at IS 'After this the row is as good as gone';

CREATE INDEX idempotency_keys_expiry ON platform.idempotency_keys (expires_at);
