-- Which node leads which sales, and which history of the database it is. Owner: admission.

create unlogged table admission.nodes (
    node text primary key,
    until timestamptz not null
);
comment on table admission.nodes is 'The lease of each node that may lead, by the database''s clock. Unlogged, for no lease outlives a crash.';
comment on column admission.nodes.until is 'The node leads nothing after it unless it renews.';

create table admission.shards (
    shard smallint primary key,
    owner text,
    epoch bigint not null default 0
);
comment on table admission.shards is 'The sales in parts: a sale belongs to the shard of its id modulo their count, and its owner leads them while the lease in admission.nodes runs.';
comment on column admission.shards.epoch is 'The fencing token of the owner: greater at each change of owner, drawn from admission.leader.epoch.';
insert into admission.shards (shard) select generate_series(0, 31);
comment on table admission.leader is 'The lease of nodes that know no shards. Nodes that do hold it together, as the node ''shards'', so that no other leads beside them; its epoch counts every change of owner.';

create table admission.generation (
    only_row boolean primary key default true check (only_row),
    id uuid not null,
    timeline text not null
);
comment on table admission.generation is 'Names the history of this database: after a failover that may have lost commits, or a restore, it gets a new id, and every node reads again what it keeps in memory.';
comment on column admission.generation.timeline is 'PostgreSQL''s timeline when the id was made.';
create view admission.public_generation as select id from admission.generation;
comment on view admission.public_generation is 'For everybody who follows lines.';
