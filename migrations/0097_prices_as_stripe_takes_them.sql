-- Prices of up to what Stripe charges in the currency; the program knows that bound for each.
-- Owner: box-office, booking-worker.
alter table box_office.sections
    drop constraint sections_price_minor_check,
    add constraint sections_price_minor_check check (price_minor between 0 and 999999999999);
alter table booking.sections
    drop constraint sections_price_minor_check,
    add constraint sections_price_minor_check check (price_minor between 0 and 999999999999);
