-- Calls to Stripe that are due are looked for by kind: a capture is found without passing by all
-- creations that wait. Owner: payment-worker.
create index operations_due_by_kind on payment.operations (kind, next_try_at) where state = 'pending';
drop index payment.operations_due;

-- A lease is written into the row of its operation a moment after the row: room in the page makes
-- that an update in place, without new entries in the indexes.
alter table payment.operations set (fillfactor = 70);
