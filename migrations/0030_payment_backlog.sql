-- How far behind the payment worker is. Owner: payment-worker. Others read the view only.
create table payment.breaker (
    id boolean primary key default true check (id),
    failures integer not null default 0 check (failures >= 0),
    open_until timestamptz not null default '-infinity'
);
comment on table payment.breaker is 'One row: whether Stripe seems to be down. All workers share it.';
comment on column payment.breaker.failures is 'Calls in a row without a certain answer.';
comment on column payment.breaker.open_until is 'Until then no operation is begun; afterwards one at a time tries, until one succeeds.';
insert into payment.breaker default values;

create view payment.public_backlog as
select due.pending, due.oldest_seconds, b.open_until > clock_timestamp() as breaker_open
from payment.breaker b,
     lateral (select count(*) as pending,
                     coalesce(extract(epoch from clock_timestamp() - min(o.next_try_at)), 0)::double precision
                         as oldest_seconds
              from payment.operations o
              where o.state = 'pending' and o.next_try_at <= clock_timestamp()) due;
comment on view payment.public_backlog is 'For the release loop: calls to Stripe that are due and not done, how long the oldest has been due, and whether Stripe seems to be down. Always one row.';
