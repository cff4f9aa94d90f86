-- Which events there are, for the payment worker; customers get random keys. Owners: box-office, payment-worker.
create view box_office.public_events as
select e.id as event_id, e.name, e.date, e.state,
       array(select distinct s.currency from box_office.sections s where s.event_id = e.id order by s.currency)
           as currencies
from box_office.events e;
comment on view box_office.public_events is 'For the payment worker: which events there are, how they are called on a bank statement, and in what they are priced.';

-- A policy without an event would be inherited by the event that gets the number.
delete from payment.refund_policies p
where not exists (select from box_office.events e where e.id = p.event_id);

-- Account numbers are given again after a restore, and by every installation. A key made of one
-- would be answered with another person's customer.
update payment.customers set idempotency_key = 'onsale-customer-' || gen_random_uuid(), tries = 0
where customer_id is null;
comment on table payment.customers is 'Stripe''s Customer of an account, which keeps its cards. Only accounts that asked to keep one have a row. The row is written before Stripe is asked, with a random key, which is all that is sent.';
comment on column payment.customers.idempotency_key is 'The random key of the call that creates it, also in the customer''s metadata. Whoever does not know what became of the call repeats it.';
comment on column payment.customers.attempt is 'How many keys there were. A new one is only made when the outcome of the one before is known, or its customer was deleted at Stripe.';
