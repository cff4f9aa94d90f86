//! The audit finds what is stuck, and shows what it could not check.

#![expect(clippy::unwrap_used, reason = "a test's own steps")]

use std::process::{Command, Output};

use platform::testing::TestApp;
use secrecy::ExposeSecret as _;
use sqlx::{AssertSqlSafe, PgPool};

/// Work in flight: the statements that insert it, where `{age}` is the time since its last change,
/// and the audit's words once it is stuck.
const IN_FLIGHT: [(&str, &str); 8] = [
    (
        "insert into admission.requests
             (booking_id, event_id, account_id, wish, tickets, published, accepted_at)
         values ('0199aaaa-0000-7000-8000-000000000001', 1, 1, '{}', 1, true, now() - interval '{age}');",
        "request 0199aaaa-0000-7000-8000-000000000001 has been undecided",
    ),
    (
        "insert into admission.requests
             (booking_id, event_id, account_id, wish, tickets, published, accepted_at)
         values ('0199aaaa-0000-7000-8000-000000000002', 1, 1, '{}', 1, true, now() - interval '{age}');
         insert into booking.bookings (id, event_id, account_id, tickets, state, total_minor, hold_until,
             created_at, updated_at)
         values ('0199aaaa-0000-7000-8000-000000000002', 1, 1, 1, 'held', 2500,
             now() - interval '{age}', now() - interval '{age}', now() - interval '{age}');
         insert into booking.seats (section_id, rank, state, booking_id)
         values (1, 0, 'held', '0199aaaa-0000-7000-8000-000000000002');",
        "booking 0199aaaa-0000-7000-8000-000000000002 is held, though its hold ended",
    ),
    (
        "insert into admission.requests
             (booking_id, event_id, account_id, wish, tickets, published, accepted_at)
         values ('0199aaaa-0000-7000-8000-000000000003', 1, 1, '{}', 1, true, now() - interval '{age}');
         insert into booking.bookings (id, event_id, account_id, tickets, state, total_minor, hold_until,
             created_at, updated_at)
         values ('0199aaaa-0000-7000-8000-000000000003', 1, 1, 1, 'confirmed', 2500,
             now() - interval '{age}', now() - interval '{age}', now() - interval '{age}');
         insert into booking.seats (section_id, rank, state, booking_id)
         values (1, 1, 'sold', '0199aaaa-0000-7000-8000-000000000003');
         insert into booking.tickets (id, code, booking_id, event_id, account_id, seat_id, live_seat_id,
             state, created_at)
         select gen_random_uuid(), 'code-of-twenty-letters-3', booking_id, 1, 1, id, id, 'valid', now() - interval '{age}'
         from booking.seats where state = 'sold';",
        "booking 0199aaaa-0000-7000-8000-000000000003 has tickets, but its payment is not captured",
    ),
    (
        "insert into payment.operations (id, booking_id, kind, attempt, idempotency_key, params, state,
             tries, next_try_at, created_at, updated_at)
         values (gen_random_uuid(), '0199aaaa-0000-7000-8000-000000000004', 'cancel', 1, 'key-4', '{}',
             'pending', 40, now(), now() - interval '{age}', now());",
        "cancel of booking 0199aaaa-0000-7000-8000-000000000004 is pending",
    ),
    (
        "insert into admission.requests
             (booking_id, event_id, account_id, wish, tickets, published, accepted_at)
         values ('0199aaaa-0000-7000-8000-000000000005', 1, 1, '{}', 1, true, now() - interval '{age}');
         insert into booking.bookings (id, event_id, account_id, tickets, state, total_minor, hold_until,
             created_at, updated_at)
         values ('0199aaaa-0000-7000-8000-000000000005', 1, 1, 1, 'expired', 2500,
             now() - interval '{age}', now() - interval '{age}', now() - interval '{age}');
         insert into payment.payments (booking_id, event_id, account_id, amount_minor, state, created_at,
             updated_at, checked_at)
         values ('0199aaaa-0000-7000-8000-000000000005', 1, 1, 2500, 'pending', now(), now(), now());",
        "payment of booking 0199aaaa-0000-7000-8000-000000000005 is pending for a booking that is expired",
    ),
    (
        "insert into payment.webhook_inbox (event_id, type, payload, received_at, tries, next_try_at)
         values ('evt_1', 'payment_intent.succeeded', '{}', now() - interval '{age}', 3, now());",
        "webhook evt_1 (payment_intent.succeeded) waits",
    ),
    (
        "insert into platform.outbox (id, owner, exchange, routing_key, message_name, body, created_at,
             available_at)
         values (gen_random_uuid(), 'booking-worker', 'events', 'a', 'booking.confirmed.v1', '{}',
             now() - interval '{age}', now());",
        "message booking.confirmed.v1 of booking-worker is unpublished",
    ),
    (
        "insert into notifier.notifications (booking_id, event_id, account_id, kind, channel, facts, state,
             next_try_at, created_at)
         values ('0199aaaa-0000-7000-8000-000000000006', 1, 1, 'confirmed', 'email', '{}', 'waiting',
             now(), now() - interval '{age}');",
        "email confirmed of booking 0199aaaa-0000-7000-8000-000000000006 is waiting",
    ),
];

/// A free booking with its ticket, whose mail the server refused.
const REFUSED_MAIL: &str = "
    insert into admission.requests (booking_id, event_id, account_id, wish, tickets, published, accepted_at)
    values ('0199aaaa-0000-7000-8000-000000000007', 1, 1, '{}', 1, true, now() - interval '{age}');
    insert into booking.bookings (id, event_id, account_id, tickets, state, hold_until, captured_at,
        created_at, updated_at)
    values ('0199aaaa-0000-7000-8000-000000000007', 1, 1, 1, 'confirmed', now() - interval '{age}',
        now() - interval '{age}', now() - interval '{age}', now() - interval '{age}');
    insert into booking.seats (section_id, rank, state, booking_id)
    values (1, 2, 'sold', '0199aaaa-0000-7000-8000-000000000007');
    insert into booking.tickets (id, code, booking_id, event_id, account_id, seat_id, live_seat_id, state,
        created_at)
    select gen_random_uuid(), 'code-of-twenty-letters-7', booking_id, 1, 1, id, id, 'valid', now() - interval '{age}'
    from booking.seats where state = 'sold';
    insert into notifier.notifications (id, booking_id, event_id, account_id, kind, channel, facts, state,
        tries, last_error, next_try_at, created_at)
    values ('0199bbbb-0000-7000-8000-000000000007', '0199aaaa-0000-7000-8000-000000000007', 1, 1,
        'confirmed', 'email', '{}', 'failed', 1, 'no such mailbox', now(), now() - interval '{age}');
";

/// A ticket mail to an account that has not confirmed its address. It is the account of
/// [`REFUSED_MAIL`]'s booking, too.
const UNCONFIRMED_MAIL: &str = "
    insert into box_office.accounts (id, email, password_hash, created_at, updated_at)
    overriding system value
    values (1, 'buyer@example.org', 'none', now() - interval '{age}', now());
    update notifier.notifications set state = 'waiting', last_error = 'the address is not confirmed';
";

/// A captured payment of a booking that was cancelled; whoever is to give it back did not hear of
/// it.
const LOST_CANCELLATION: &str = "
    insert into admission.requests (booking_id, event_id, account_id, wish, tickets, published, accepted_at)
    values ('0199aaaa-0000-7000-8000-000000000008', 1, 1, '{}', 1, true, now() - interval '{age}');
    insert into booking.bookings (id, event_id, account_id, tickets, state, total_minor, hold_until,
        captured_at, created_at, updated_at)
    values ('0199aaaa-0000-7000-8000-000000000008', 1, 1, 1, 'cancelled', 2500, now() - interval '{age}',
        now() - interval '{age}', now() - interval '{age}', now() - interval '{age}');
    insert into booking.cancellations (booking_id, cancelled_by, cancelled_at)
    values ('0199aaaa-0000-7000-8000-000000000008', 1, now() - interval '{age}');
    insert into payment.payments (booking_id, event_id, account_id, amount_minor, captured_minor, state,
        intent_id, created_at, updated_at, checked_at)
    values ('0199aaaa-0000-7000-8000-000000000008', 1, 1, 2500, 2500, 'captured', 'pi_8',
        now() - interval '{age}', now() - interval '{age}', now());
";

/// A paid booking with its ticket and mail, whose money was refunded in the provider's dashboard.
const REFUND_ELSEWHERE: &str = "
    insert into admission.requests (booking_id, event_id, account_id, wish, tickets, published, accepted_at)
    values ('0199aaaa-0000-7000-8000-000000000009', 1, 1, '{}', 1, true, now() - interval '{age}');
    insert into booking.bookings (id, event_id, account_id, tickets, state, total_minor, hold_until,
        captured_at, created_at, updated_at)
    values ('0199aaaa-0000-7000-8000-000000000009', 1, 1, 1, 'confirmed', 2500, now() - interval '{age}',
        now() - interval '{age}', now() - interval '{age}', now() - interval '{age}');
    insert into booking.seats (section_id, rank, state, booking_id)
    values (1, 3, 'sold', '0199aaaa-0000-7000-8000-000000000009');
    insert into booking.tickets (id, code, booking_id, event_id, account_id, seat_id, live_seat_id, state,
        created_at)
    select gen_random_uuid(), 'code-of-twenty-letters-9', booking_id, 1, 1, id, id, 'valid', now() - interval '{age}'
    from booking.seats where state = 'sold';
    insert into notifier.notifications (booking_id, event_id, account_id, kind, channel, facts, state,
        next_try_at, created_at, sent_at)
    values ('0199aaaa-0000-7000-8000-000000000009', 1, 1, 'confirmed', 'email', '{}', 'sent', now(),
        now() - interval '{age}', now());
    insert into payment.payments (booking_id, event_id, account_id, amount_minor, captured_minor,
        refunded_minor, state, intent_id, created_at, updated_at, checked_at)
    values ('0199aaaa-0000-7000-8000-000000000009', 1, 1, 2500, 2500, 2500, 'captured', 'pi_9',
        now() - interval '{age}', now() - interval '{age}', now());
    insert into payment.refunds (id, booking_id, amount_minor, currency, state, stripe_refund_id, occasion,
        created_at, updated_at, checked_at)
    values (gen_random_uuid(), '0199aaaa-0000-7000-8000-000000000009', 2500, 'eur', 'succeeded', 're_9', 're_9',
        now() - interval '{age}', now() - interval '{age}', now());
    insert into payment.findings (id, kind, subject, booking_id, detail, found_at)
    values (gen_random_uuid(), 'refund_elsewhere', 're_9', '0199aaaa-0000-7000-8000-000000000009',
        '25.00 EUR was refunded in the dashboard', now() - interval '{age}');
";

const DEAD_LETTER: &str = "
    insert into platform.dead_letters (id, queue, message_id, message_name, body, reason, attempts)
    values (gen_random_uuid(), 'payment.bookings', gen_random_uuid(), 'booking.confirmed.v1', '', 'too early',
        100);
";

/// Runs a command of `onsale` on this database; returns its exit status and output.
fn onsale(app: &TestApp, arguments: &[&str]) -> (Option<i32>, String) {
    let Output { status, stdout, .. } = Command::new(env!("CARGO_BIN_EXE_onsale"))
        .args(arguments)
        .env(
            "ONSALE_DATABASE_URL",
            app.ctx.config.database_url.expose_secret(),
        )
        .env_remove("STRIPE_SECRET_KEY")
        .output()
        .unwrap();
    (status.code(), String::from_utf8(stdout).unwrap())
}

/// Runs the audit without a wait; returns its exit status and output.
fn audit(app: &TestApp) -> (Option<i32>, String) {
    onsale(app, &["audit", "--wait", "0"])
}

async fn run(db: &PgPool, statements: String) {
    let running = sqlx::raw_sql(AssertSqlSafe(statements));
    running.execute(db).await.unwrap();
}

/// Runs the statements without foreign keys and triggers, in a transaction of their own.
async fn plant(db: &PgPool, statements: &str, age: &str) {
    let statements = statements.replace("{age}", age);
    let alone = "begin; set local session_replication_role = replica;";
    run(db, format!("{alone} {statements}; commit;")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_audit_at_rest_exits_0_and_names_what_it_could_not_check() {
    let app = TestApp::start().await;
    let (status, text) = audit(&app);
    assert_eq!(status, Some(0), "{text}");
    assert!(text.contains("at rest: nothing in flight"), "{text}");
    for id in ["I4", "I11"] {
        let line = text.lines().find(|line| line.contains(&format!(" {id} ")));
        assert!(line.unwrap().starts_with('–'), "{text}");
    }
    assert!(text.contains("not checked: without STRIPE_SECRET_KEY"));
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn work_that_still_moves_is_no_violation_but_not_at_rest() {
    let app = TestApp::start().await;
    for (statements, _) in IN_FLIGHT {
        plant(&app.ctx.db, statements, "10 seconds").await;
    }
    let (status, text) = audit(&app);
    assert_eq!(status, Some(3), "{text}");
    assert!(!text.contains("FAIL"), "{text}");
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_of_work_that_is_stuck_is_a_violation() {
    let app = TestApp::start().await;
    for (statements, stuck) in IN_FLIGHT {
        plant(&app.ctx.db, statements, "1 hour").await;
        let (status, text) = audit(&app);
        assert_eq!(status, Some(1), "{text}");
        assert!(text.contains(stuck), "no {stuck:?} in:\n{text}");
        let clean = "truncate admission.requests, booking.bookings, booking.seats, booking.tickets,
            payment.payments, payment.operations, payment.webhook_inbox, platform.outbox,
            notifier.notifications cascade";
        plant(&app.ctx.db, clean, "").await;
        assert_eq!(audit(&app).0, Some(0));
    }
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_is_stuck_until_it_is_sent_back() {
    let app = TestApp::start().await;
    plant(&app.ctx.db, DEAD_LETTER, "").await;
    let (status, text) = audit(&app);
    assert_eq!(status, Some(1), "{text}");
    let stuck = "dead letter booking.confirmed.v1 of payment.bookings since";
    assert!(text.contains(stuck), "{text}");
    run(&app.ctx.db, "delete from platform.dead_letters".to_owned()).await;
    assert_eq!(audit(&app).0, Some(0));
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_mail_that_failed_is_a_violation_until_staff_have_it_sent_again() {
    let app = TestApp::start().await;
    plant(&app.ctx.db, REFUSED_MAIL, "1 hour").await;
    let (status, text) = audit(&app);
    assert_eq!(status, Some(1), "{text}");
    let booking = "booking 0199aaaa-0000-7000-8000-000000000007";
    for broken in [
        format!("email confirmed of {booking} is failed"),
        format!("{booking} is paid, but no confirmation was mailed"),
    ] {
        assert!(text.contains(&broken), "no {broken:?} in:\n{text}");
    }

    let again = ["mails", "again", "0199bbbb-0000-7000-8000-000000000007"];
    assert_eq!(onsale(&app, &again).0, Some(0));
    let (status, text) = audit(&app);
    assert_eq!(status, Some(3), "it waits to be sent: {text}");
    // The server refuses it once more, and staff have seen to that.
    let refuse = "update notifier.notifications set state = 'failed'; delete from platform.outbox";
    run(&app.ctx.db, refuse.to_owned()).await;
    let (status, text) = audit(&app);
    assert_eq!(status, Some(0), "{text}");
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_mail_that_waits_for_a_confirmed_address_is_not_stuck() {
    let app = TestApp::start().await;
    plant(&app.ctx.db, REFUSED_MAIL, "1 hour").await;
    plant(&app.ctx.db, UNCONFIRMED_MAIL, "1 hour").await;
    let (status, text) = audit(&app);
    assert_eq!(status, Some(0), "{text}");
    // A mail that is not sent once the address is confirmed is stuck, after a while.
    let confirm = "update box_office.accounts set email_confirmed_at = now() - interval '{age}';
        update notifier.notifications set last_error = null;";
    plant(&app.ctx.db, confirm, "1 minute").await;
    assert_ne!(audit(&app).0, Some(0));
    assert!(!audit(&app).1.contains("email confirmed of booking"));
    plant(&app.ctx.db, confirm, "30 minutes").await;
    let (status, text) = audit(&app);
    assert_eq!(status, Some(1), "{text}");
    let stuck = "email confirmed of booking 0199aaaa-0000-7000-8000-000000000007 is waiting";
    assert!(text.contains(stuck), "{text}");
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancellation_whose_money_is_not_given_back_is_a_violation() {
    let app = TestApp::start().await;
    plant(&app.ctx.db, LOST_CANCELLATION, "1 hour").await;
    let (status, text) = audit(&app);
    assert_eq!(status, Some(1), "{text}");
    let booking = "booking 0199aaaa-0000-7000-8000-000000000008";
    for broken in [
        format!("pi_8: 25.00 EUR captured and 0.00 EUR refunded for {booking}, which is cancelled"),
        format!("{booking} was cancelled at"),
    ] {
        assert!(text.contains(&broken), "no {broken:?} in:\n{text}");
    }
    // By the policy all of it is kept.
    let keep = "update payment.payments set kept_minor = 2500, kept_on_cancel_minor = 2500";
    run(&app.ctx.db, keep.to_owned()).await;
    let (status, text) = audit(&app);
    assert_eq!(status, Some(0), "{text}");
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_whose_money_was_refunded_elsewhere_is_a_violation_until_staff_settle_it() {
    let app = TestApp::start().await;
    plant(&app.ctx.db, REFUND_ELSEWHERE, "1 hour").await;
    let (status, text) = audit(&app);
    assert_eq!(status, Some(1), "{text}");
    let broken = "booking 0199aaaa-0000-7000-8000-000000000009: 25.00 EUR refunded elsewhere";
    assert!(text.contains(broken), "{text}");
    run(
        &app.ctx.db,
        "update payment.findings set settled_at = now()".to_owned(),
    )
    .await;
    let (status, text) = audit(&app);
    assert_eq!(status, Some(0), "{text}");
    app.finish().await;
}
