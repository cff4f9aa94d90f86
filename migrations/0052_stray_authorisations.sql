-- The reconciler finds money that is reserved for no booking. Owner: payment-worker.
alter table payment.findings drop constraint findings_kind_check;
alter table payment.findings add constraint findings_kind_check check (kind in (
    'second_charge', 'unknown_charge', 'unknown_authorisation', 'amount_differs', 'missing', 'dispute',
    'refund_elsewhere', 'refund_failed'));
comment on column payment.findings.kind is 'second_charge: a booking was charged by two PaymentIntents; unknown_charge: charged for a booking that has no payment here; unknown_authorisation: money is reserved for such a booking, perhaps another installation''s; amount_differs: Stripe has another amount; missing: Stripe does not know what we have from it; dispute: the buyer asked the bank for the money; refund_elsewhere: refunded in Stripe''s dashboard while the tickets are good; refund_failed: the money came back, or a refund was refused.';
