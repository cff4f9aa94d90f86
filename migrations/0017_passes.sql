-- How passes that end are found. Owner: admission.

create index claims_due on admission.claims (ends_at) where over_at is null;
create index claims_ended_early on admission.claims (ends_at) where over_at is not null;
comment on index admission.claims_due is 'Passes that run out, of every sale.';
comment on index admission.claims_ended_early is 'Passes that a node must refuse although they have not run out: it reads them when it starts.';
