-- no-transaction. Payments are found by event: refund progress and repeats. Owner: payment-worker.
create index concurrently if not exists payments_event on payment.payments (event_id);
