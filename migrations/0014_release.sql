-- What the release leader has told of, and how the booking API does.

alter table admission.lines
    add column claims bigint not null default 0,
    add column leavings bigint not null default 0;
comment on column admission.lines.claims is 'The change of the last claim or end of a pass that a move tells of.';
comment on column admission.lines.leavings is 'The change of the last leaving that a move tells of.';

create unlogged table admission.answers (
    node text primary key,
    at timestamptz not null,
    answers bigint not null check (answers > 0),
    failures bigint not null check (failures between 0 and answers),
    seconds double precision not null
);
comment on table admission.answers is 'How each node answered booking requests of late: what the brake feels. Unlogged, for it is worthless after a crash.';
comment on column admission.answers.at is 'When it was written; older rows say nothing any more.';
comment on column admission.answers.answers is 'How many requests were answered.';
comment on column admission.answers.failures is 'How many of those with 5xx.';
comment on column admission.answers.seconds is 'How long they took, all together.';
