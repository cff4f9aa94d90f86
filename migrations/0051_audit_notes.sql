-- Other services tell the audit log what staff did there. Owner: box-office.
alter table box_office.audit_log add column note uuid;
comment on column box_office.audit_log.note is 'The id of the message by which another service told it, so that each counts once; null for box-office''s own.';
comment on column box_office.audit_log.actor is 'The account; 0 for the command line on the server. Of refund.policy: the buyer who cancelled.';
create unique index audit_log_note on box_office.audit_log (note) where note is not null;
