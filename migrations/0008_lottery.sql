-- What operators set about the lobby's lottery, and the steps of the draw.

-- Owner: box-office.
alter table box_office.sales
    add column anonymous boolean not null default false,
    add column entropy_source text not null default '' check (length(entropy_source) <= 200),
    add column entropy text not null default '' check (length(entropy) <= 200),
    add check (entropy = '' or entropy_source <> '');
comment on column box_office.sales.anonymous is 'Whether visitors without an account may join: the queue guards another site, and nothing is sold here.';
comment on column box_office.sales.entropy_source is 'Where public entropy for the lottery will come from, announced before the lobby opens; empty for none.';
comment on column box_office.sales.entropy is 'What that source showed; told once, after the entries were fixed.';

-- Owner: admission.
alter table admission.draws
    drop constraint draws_check,
    add column entropy_source text,
    add column entries bigint check (entries between 0 and lobby),
    add column fixed_at timestamptz,
    add check ((fixed_at is null) = (lobby is null)
        and (fixed_at is null) = (entries is null)
        and (fixed_at is null) = (entropy_source is null)
        and (fixed_at is null) = (entries_digest is null)),
    add check ((drawn_at is null) = (entropy is null)),
    add check (drawn_at is null or fixed_at is not null);
comment on column admission.draws.entropy_source is 'What was announced when the entries were fixed; empty for none.';
comment on column admission.draws.entries is 'How many of the numbers somebody held: whoever left and joined again has a later one.';
comment on column admission.draws.fixed_at is 'When it was fixed who takes part, before entropy and seed were known to anybody.';

create table admission.draw_entries (
    event_id bigint not null references admission.draws (event_id),
    first bigint not null check (first > 0),
    names bytea not null check (length(names) > 0 and length(names) % 16 = 0),
    primary key (event_id, first)
);
comment on table admission.draw_entries is 'Who takes part in a lottery, as fixed: numbers change hands later, this does not.';
comment on column admission.draw_entries.first is 'The number of the first name.';
comment on column admission.draw_entries.names is 'The pseudonyms of consecutive numbers, 16 bytes each; zeros for a number that nobody held.';

create or replace view admission.public_draws as
select event_id, commitment, committed_at, lobby, entropy, entries_digest, drawn_at,
       case when drawn_at is not null then seed end as seed,
       entropy_source, fixed_at
from admission.draws;
comment on view admission.public_draws is 'For waiting-room and box-office: the lottery, its seed only once it is drawn.';
