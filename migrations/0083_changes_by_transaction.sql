-- Changes are followed by transaction, not by time. Owners: waiting-room, admission.

alter table waiting_room.lines add column changed_in xid8 not null default '0';
comment on column waiting_room.lines.changed_in is 'The transaction of the last change. A reader that reads on from the oldest transaction that ran at its last read misses none, however late it commits.';
create index lines_changed on waiting_room.lines (changed_in);
create function waiting_room.note_change() returns trigger language plpgsql as $$
begin
    new.changed_in := pg_current_xact_id();
    return new;
end $$;
create trigger note_change before insert or update on waiting_room.lines
    for each row execute function waiting_room.note_change();
create or replace view waiting_room.public_lines as
select event_id, joined, leavings, updated_at, changed_in from waiting_room.lines;

alter table admission.sales add column changed_in xid8 not null default '0';
comment on column admission.sales.changed_in is 'The transaction of the last change, as in waiting_room.lines.';
create index sales_changed on admission.sales (changed_in);
create function admission.note_change() returns trigger language plpgsql as $$
begin
    new.changed_in := pg_current_xact_id();
    return new;
end $$;
create trigger note_change before insert or update on admission.sales
    for each row execute function admission.note_change();
