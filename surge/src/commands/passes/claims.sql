-- The statements of admission/src/store/gate.rs, for a sale that nobody else has: its changes count
-- the places that claimed.
insert into admission.gates (event_id) values (-1) on conflict do nothing;
begin;
select changes, shopping from admission.gates where event_id = -1 for update \gset
with t as materialized (select clock_timestamp() as now),
due as (
    select c.place, row_number() over (order by c.ends_at, c.place) as nth
    from admission.claims c
    where c.event_id = -1 and c.over_at is null
      and c.ends_at <= (select floor(extract(epoch from t.now))::bigint from t)
    order by c.ends_at, c.place limit 1000
), ended as (
    update admission.claims c
    set over_at = (select t.now from t), change = :changes::bigint + due.nth
    from due where c.event_id = -1 and c.place = due.place
    returning c.place
), lapsed as (
    delete from admission.ready r
    where r.event_id = -1
      and r.tried_at <= (select t.now - 8 * interval '1 second' from t)
), old as (
    delete from admission.claim_counts k
    where k.event_id = -1
      and k.bucket < (select floor(extract(epoch from t.now) * 4)::bigint - 241 from t)
)
select t.now, (select count(*) from ended) from t;
select place, jti, issued_at, ends_at, over_at is not null from admission.claims
where event_id = -1
  and place = any(array(select generate_series(:changes::bigint + 1, :changes::bigint + :batch::integer)));
select bucket, claims from admission.claim_counts
where event_id = -1 and bucket >= floor(extract(epoch from clock_timestamp()) * 4)::bigint - 240;
select place, since, tried_at from admission.ready
where event_id = -1 order by since, place limit 5000;
with passed as (
    insert into admission.claims
        (event_id, place, account_id, jti, claimed_at, issued_at, ends_at, change)
    select -1, p, p, gen_random_uuid(), clock_timestamp(), 0, 9999999999, p
    from generate_series(:changes::bigint + 1, :changes::bigint + :batch::integer) as p
), counted as (
    insert into admission.claim_counts (event_id, bucket, claims)
    values (-1, floor(extract(epoch from clock_timestamp()) * 4)::bigint, :batch::integer)
    on conflict (event_id, bucket) do update set claims = claim_counts.claims + excluded.claims
), through as (
    delete from admission.ready
    where event_id = -1
      and place = any(array(select generate_series(:changes::bigint + 1, :changes::bigint + :batch::integer)))
)
insert into admission.ready (event_id, place, since, tried_at)
select -1, w.place, clock_timestamp(), clock_timestamp()
from unnest('{}'::bigint[]) as w (place)
on conflict (event_id, place) do update set tried_at = excluded.tried_at;
update admission.gates set changes = :changes::bigint + :batch::integer, shopping = :shopping::integer + :batch::integer
where event_id = -1;
commit;
