//! The audit sees what is stuck, and says what it could not check.

#![expect(clippy::unwrap_used, reason = "a test's own steps")]

use std::process::{Command, Output};

use platform::testing::TestApp;
use secrecy::ExposeSecret as _;
use sqlx::{AssertSqlSafe, PgPool};

/// One booking on its way, and what belongs to it; `{age}` is how long ago it moved last.
const IN_FLIGHT: &str = "
    set session_replication_role = replica;
    insert into admission.requests (booking_id, event_id, account_id, wish, tickets, published, accepted_at)
    values ('0199aaaa-0000-7000-8000-000000000001', 1, 1, '{}', 1, true, now() - interval '{age}'),
           ('0199aaaa-0000-7000-8000-000000000002', 1, 1, '{}', 1, true, now() - interval '{age}');
    insert into booking.bookings (id, event_id, account_id, tickets, state, seats, total_minor, currency,
        hold_until, created_at, updated_at)
    values ('0199aaaa-0000-7000-8000-000000000002', 1, 1, 1, 'held', '[]', 2500, 'eur',
        now() - interval '{age}', now() - interval '{age}', now() - interval '{age}');
    insert into booking.seats (section_id, rank, state, booking_id)
    values (1, 0, 'held', '0199aaaa-0000-7000-8000-000000000002');
    insert into payment.operations (id, booking_id, kind, attempt, idempotency_key, params, state, tries,
        next_try_at, created_at, updated_at)
    values (gen_random_uuid(), '0199aaaa-0000-7000-8000-000000000002', 'cancel', 1, 'key-1', '{}', 'pending', 40,
        now(), now() - interval '{age}', now());
    insert into payment.webhook_inbox (event_id, type, payload, received_at, tries, next_try_at)
    values ('evt_1', 'payment_intent.succeeded', '{}', now() - interval '{age}', 3, now());
    insert into platform.outbox (id, owner, exchange, routing_key, message_name, body, created_at, available_at)
    values (gen_random_uuid(), 'booking-worker', 'events', 'a', 'booking.confirmed.v1', '{}', now() - interval '{age}', now());
";

/// What the audit of this database prints without a wait, and its exit status.
fn audit(app: &TestApp) -> (Option<i32>, String) {
    let Output { status, stdout, .. } = Command::new(env!("CARGO_BIN_EXE_onsale"))
        .args(["audit", "--wait", "0"])
        .env(
            "ONSALE_DATABASE_URL",
            app.ctx.config.database_url.expose_secret(),
        )
        .env_remove("STRIPE_SECRET_KEY")
        .output()
        .unwrap();
    (status.code(), String::from_utf8(stdout).unwrap())
}

async fn plant(db: &PgPool, age: &str) {
    let statements = IN_FLIGHT.replace("{age}", age);
    sqlx::raw_sql(AssertSqlSafe(statements))
        .execute(db)
        .await
        .unwrap();
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
    plant(&app.ctx.db, "10 seconds").await;
    let (status, text) = audit(&app);
    assert_eq!(status, Some(3), "{text}");
    assert!(!text.contains("FAIL"), "{text}");
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_of_work_that_is_stuck_is_a_violation() {
    let app = TestApp::start().await;
    plant(&app.ctx.db, "1 hour").await;
    let (status, text) = audit(&app);
    assert_eq!(status, Some(1), "{text}");
    for stuck in [
        "request 0199aaaa-0000-7000-8000-000000000001 has been undecided",
        "booking 0199aaaa-0000-7000-8000-000000000002 is held, though",
        "cancel of booking 0199aaaa-0000-7000-8000-000000000002 is pending",
        "webhook evt_1 (payment_intent.succeeded) waits",
        "message booking.confirmed.v1 of booking-worker is unpublished",
    ] {
        assert!(text.contains(stuck), "no {stuck:?} in:\n{text}");
    }
    app.finish().await;
}
