-- Seats, bookings and tickets. Owner: booking-worker. Others read the views at the end only.
create schema booking;

create table booking.events (
    event_id bigint primary key,
    version bigint not null,
    name text not null,
    date timestamptz not null,
    cancelled boolean not null,
    max_tickets_per_account integer not null check (max_tickets_per_account > 0)
);
comment on table booking.events is 'What the worker needs to know of an event, from event.changed.v1.';

create table booking.sales (
    event_id bigint primary key,
    version bigint not null,
    settings jsonb not null
);
comment on table booking.sales is 'The sale''s settings, from sale.changed.v1.';

create table booking.sections (
    section_id bigint primary key,
    event_id bigint not null references booking.events (event_id),
    position integer not null,
    name text not null,
    numbered boolean not null,
    price_minor bigint not null check (price_minor between 0 and 4999999),
    currency text not null check (currency ~ '^[a-z]{3}$'),
    offered boolean not null default true,
    capacity integer not null default 0 check (capacity >= 0),
    available integer not null default 0 check (available >= 0),
    held integer not null default 0 check (held >= 0),
    sold integer not null default 0 check (sold >= 0),
    constraint stock_is_conserved check (available + held + sold = capacity)
);
comment on table booking.sections is 'A section and its counters (I10). They follow booking.seats by trigger, in the same transaction, and can''t be written otherwise.';
comment on column booking.sections.position is 'Order in which sections are shown and, when a request names none, tried.';
comment on column booking.sections.offered is 'False once the event no longer has the section: its taken seats stay, nothing more is sold.';
create index sections_event on booking.sections (event_id, position);

create table booking.bookings (
    id uuid primary key,
    event_id bigint not null,
    account_id bigint not null,
    tickets integer not null check (tickets > 0),
    state text not null check (state in ('held', 'confirmed', 'rejected', 'expired', 'cancelled')),
    reason text check (reason in ('sold_out', 'not_adjacent', 'limit_reached', 'sale_closed', 'seat_taken', 'unknown_event')),
    seats jsonb not null default '[]',
    total_minor bigint not null default 0 check (total_minor >= 0),
    currency text not null default 'eur' check (currency ~ '^[a-z]{3}$'),
    hold_until timestamptz,
    ending text check (ending in ('hold_expired', 'cancelled')),
    ending_asked_at timestamptz,
    captured_at timestamptz,
    created_at timestamptz not null,
    updated_at timestamptz not null,
    live boolean not null generated always as (state in ('held', 'confirmed')) stored,
    unique (id, live),
    check ((state = 'rejected') = (reason is not null)),
    check (state = 'rejected' or hold_until is not null),
    check ((ending is null) = (ending_asked_at is null)),
    check (ending is null or state = 'held'),
    check (captured_at is null or state in ('confirmed', 'cancelled'))
);
comment on table booking.bookings is 'One row per decided request; a request no worker has seen has no row here yet.';
comment on column booking.bookings.id is 'UUIDv7 made by admission: a redelivered request finds its row.';
comment on column booking.bookings.state is 'held: seats set aside; confirmed: tickets exist; rejected, expired, cancelled: final.';
comment on column booking.bookings.seats is 'What was held, as people read it: [{id, section, row, number}]. Kept after the seats are freed.';
comment on column booking.bookings.ending is 'Why a held booking is to end; its seats are freed only when the payment worker says that no payment can come.';
comment on column booking.bookings.ending_asked_at is 'When the payment worker was last asked; asked again when no answer comes.';
comment on column booking.bookings.live is 'Whether it may have seats: a booking can''t leave held and confirmed without giving them back.';
comment on column booking.bookings.captured_at is 'When the payment of a confirmed booking was captured; of a free one, when it was confirmed.';
create index bookings_account on booking.bookings (account_id, id desc);
create index bookings_hold_until on booking.bookings (hold_until) where state = 'held' and ending is null;
create index bookings_ending on booking.bookings (ending_asked_at) where state = 'held' and ending is not null;
create index bookings_live on booking.bookings (event_id) where state in ('held', 'confirmed');

create table booking.seats (
    id bigint generated always as identity primary key,
    section_id bigint not null references booking.sections (section_id),
    rank integer not null check (rank >= 0),
    row_label text,
    number integer,
    state text not null default 'available' check (state in ('available', 'held', 'sold')),
    booking_id uuid,
    booking_live boolean generated always as (case when booking_id is not null then true end) stored,
    unique (section_id, rank),
    unique (id, booking_id),
    foreign key (booking_id, booking_live) references booking.bookings (id, live) deferrable initially deferred,
    constraint free_or_taken check ((state = 'available') = (booking_id is null)),
    check ((row_label is null) = (number is null))
);
comment on column booking.seats.rank is 'Order of preference in the section. Row r (from 0) of a numbered section has the ranks from 1000 r, so that rows may grow; seats next to each other have neighbouring ranks.';
comment on column booking.seats.booking_id is 'The one booking that has the seat (I1).';
comment on column booking.seats.booking_live is 'True when taken: with it the foreign key refuses seats of a booking that has ended.';
create index seats_free on booking.seats (section_id, rank) where state = 'available';
create index seats_booking on booking.seats (booking_id) where booking_id is not null;

-- Counters follow seats (I10), a statement at a time; sections are locked in order of their id.
create function booking.count_inserted_seats() returns trigger language plpgsql as $$
begin
    with changed as materialized (
        select n.section_id, count(*) filter (where n.state = 'available') as available,
               count(*) filter (where n.state = 'held') as held, count(*) filter (where n.state = 'sold') as sold
        from new_seats n group by n.section_id
    ), locked as materialized (
        select s.section_id from booking.sections s
        where s.section_id in (select c.section_id from changed c) order by s.section_id for update
    )
    update booking.sections s
    set available = s.available + c.available, held = s.held + c.held, sold = s.sold + c.sold,
        capacity = s.capacity + c.available + c.held + c.sold
    from changed c join locked l using (section_id) where s.section_id = c.section_id;
    return null;
end $$;

create function booking.count_deleted_seats() returns trigger language plpgsql as $$
begin
    if exists (select from old_seats o where o.state <> 'available') then
        raise exception 'a taken seat cannot be removed' using errcode = 'check_violation';
    end if;
    with changed as materialized (
        select o.section_id, count(*) as seats from old_seats o group by o.section_id
    ), locked as materialized (
        select s.section_id from booking.sections s
        where s.section_id in (select c.section_id from changed c) order by s.section_id for update
    )
    update booking.sections s
    set available = s.available - c.seats, capacity = s.capacity - c.seats
    from changed c join locked l using (section_id) where s.section_id = c.section_id;
    return null;
end $$;

create function booking.count_changed_seats() returns trigger language plpgsql as $$
begin
    with changed as materialized (
        select d.section_id, sum(d.available) as available, sum(d.held) as held, sum(d.sold) as sold
        from (
            select n.section_id, (n.state = 'available')::integer as available, (n.state = 'held')::integer as held,
                   (n.state = 'sold')::integer as sold
            from new_seats n
            union all
            select o.section_id, -(o.state = 'available')::integer, -(o.state = 'held')::integer,
                   -(o.state = 'sold')::integer
            from old_seats o
        ) d
        group by d.section_id
    ), locked as materialized (
        select s.section_id from booking.sections s
        where s.section_id in (select c.section_id from changed c) order by s.section_id for update
    )
    update booking.sections s
    set available = s.available + c.available, held = s.held + c.held, sold = s.sold + c.sold,
        capacity = s.capacity + c.available + c.held + c.sold
    from changed c join locked l using (section_id) where s.section_id = c.section_id;
    return null;
end $$;

create trigger count_inserted after insert on booking.seats
    referencing new table as new_seats for each statement execute function booking.count_inserted_seats();
create trigger count_deleted after delete on booking.seats
    referencing old table as old_seats for each statement execute function booking.count_deleted_seats();
create trigger count_changed after update on booking.seats
    referencing old table as old_seats new table as new_seats
    for each statement execute function booking.count_changed_seats();

create function booking.refuse() returns trigger language plpgsql as $$
begin
    raise exception '%', tg_argv[0] using errcode = 'check_violation';
end $$;

-- Only the triggers above write the counters: inside them the trigger depth is not zero.
create trigger counters_follow_seats before update of capacity, available, held, sold on booking.sections
    for each row when (pg_trigger_depth() = 0)
    execute function booking.refuse('the counters of a section follow its seats');
create trigger counters_start_at_zero before insert on booking.sections
    for each row when (new.capacity <> 0)
    execute function booking.refuse('a section starts without seats');
create trigger seats_are_counted_out before truncate on booking.seats
    for each statement execute function booking.refuse('seats are removed by delete');

create table booking.tickets (
    id uuid primary key,
    code text not null unique check (length(code) between 20 and 200),
    booking_id uuid not null references booking.bookings (id),
    event_id bigint not null,
    account_id bigint not null,
    seat_id bigint not null,
    live_seat_id bigint,
    state text not null check (state in ('valid', 'checked_in', 'cancelled')),
    created_at timestamptz not null,
    foreign key (live_seat_id, booking_id) references booking.seats (id, booking_id) deferrable initially deferred,
    check ((state = 'cancelled') = (live_seat_id is null)),
    check (live_seat_id is null or live_seat_id = seat_id)
);
comment on column booking.tickets.code is 'What the QR code carries: 128 random bits.';
comment on column booking.tickets.live_seat_id is 'The seat while the ticket is good: it must belong to the same booking, and has no other ticket (I1).';
create unique index one_live_ticket_per_seat on booking.tickets (live_seat_id) where live_seat_id is not null;
create index tickets_booking on booking.tickets (booking_id);

create table booking.account_tickets (
    event_id bigint not null,
    account_id bigint not null,
    tickets integer not null check (tickets >= 0),
    primary key (event_id, account_id)
);
comment on table booking.account_tickets is 'How many held or valid tickets an account has, so that the limit is one guarded update.';

create view booking.public_bookings as
select b.id, b.event_id, b.account_id, b.tickets, b.state, b.reason, b.seats, b.total_minor, b.currency,
       b.hold_until, b.ending, b.created_at,
       coalesce((select jsonb_agg(t.code order by t.seat_id) from booking.tickets t
                 where t.booking_id = b.id and t.state <> 'cancelled'), '[]') as ticket_codes
from booking.bookings b;
comment on view booking.public_bookings is 'For admission: the booking as its owner sees it.';

create view booking.public_stock as
select s.event_id, s.section_id, s.position, s.name, s.numbered, s.capacity, s.available, s.held, s.sold
from booking.sections s
where s.offered or s.capacity > 0;
comment on view booking.public_stock is 'For admission and box-office: how much is left.';

create view booking.public_seats as
select c.event_id, s.section_id, s.rank, s.id, s.row_label, s.number, s.state
from booking.sections c join booking.seats s using (section_id);
comment on view booking.public_seats is 'For box-office: the seat map.';
