-- Payments in UGX say what was charged. Owner: payment-worker.
-- Stripe counts UGX in hundredths and was sent whole shillings until now, so it took a hundredth of
-- what these rows say. Captures and refunds under way carry no currency and go out as they stand.
-- The version before charges a hundredth for as long as it runs: sell nothing in UGX until then.
update payment.payments
   set amount_minor = (amount_minor + 99) / 100,
       captured_minor = (captured_minor + 99) / 100,
       refunded_minor = (refunded_minor + 99) / 100,
       kept_minor = kept_minor / 100
 where currency = 'ugx' and intent_id is not null;
update payment.refunds
   set amount_minor = (amount_minor + 99) / 100
 where currency = 'ugx';
