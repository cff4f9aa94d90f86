-- A repeated booking request keeps its booking; staff book for accounts that exist; a sale ends with
-- the start of its event. Owners: admission, box-office.
alter table admission.requests add column repeated_at timestamptz;
comment on column admission.requests.repeated_at is 'When a repeat of its key took the request up. Since then no single call knows whether RabbitMQ has it, so none withdraws it.';

create view box_office.public_accounts as
select a.id as account_id from box_office.accounts a;
comment on view box_office.public_accounts is 'For admission, which books for accounts that exist: staff name the buyer.';

create or replace view admission.public_ended as
select event_id,
       case when (settings->>'closed')::boolean then updated_at
            else greatest(updated_at,
                          coalesce(settings->>'closes_at', settings->>'event_starts_at')::timestamptz)
       end as ended_at
from admission.sales
where (settings->>'closed')::boolean
   or coalesce(settings->>'closes_at', settings->>'event_starts_at') is not null;
