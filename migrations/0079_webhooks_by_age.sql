-- no-transaction. Webhooks that are too old to matter are deleted. Owner: payment-worker.
create index concurrently if not exists webhook_inbox_processed on payment.webhook_inbox (processed_at)
    where processed_at is not null;
