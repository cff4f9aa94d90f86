-- Owner: admission. Under which key the names of a lottery's entries are made.

alter table admission.draws add column entries_key text;
comment on column admission.draws.entries_key is 'The id of the key that names the entries, fixed with the commitment so that a change of secrets changes no name; null in lotteries from before: the key that signs.';

create or replace view admission.public_draws as
select event_id, commitment, committed_at, lobby, entropy, entries_digest, drawn_at,
       case when drawn_at is not null then seed end as seed,
       entropy_source, fixed_at, entries_key
from admission.draws;
