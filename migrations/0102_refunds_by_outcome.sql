-- no-transaction. Refunds are swept by when they succeeded or failed. Owner: payment-worker.
create index concurrently if not exists refunds_ended on payment.refunds (updated_at)
    where state in ('succeeded', 'failed');
