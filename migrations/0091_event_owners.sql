-- Whose an event is. Owner: box-office.
create view box_office.public_event_owners as
select e.id as event_id, e.created_by as account_id from box_office.events e;
comment on view box_office.public_event_owners is 'For every service: the organiser an event belongs to; null for none, whom installation roles alone reach.';
