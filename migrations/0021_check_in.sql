-- Tickets are checked in at the door, once. Owner: booking-worker.
alter table booking.tickets add column checked_in_at timestamptz;
alter table booking.tickets add column checked_in_by bigint;
alter table booking.tickets add constraint checked_in_by_somebody
    check ((checked_in_at is null) = (checked_in_by is null));
alter table booking.tickets add constraint checked_in_at_some_time
    check (case state when 'valid' then checked_in_at is null when 'checked_in' then checked_in_at is not null else true end);
comment on column booking.tickets.code is 'What the QR code carries: signed, so that a scanner verifies it offline; 128 random bits are in it.';
comment on column booking.tickets.checked_in_at is 'When its holder was let in.';
comment on column booking.tickets.checked_in_by is 'The account of the member of staff who did.';
