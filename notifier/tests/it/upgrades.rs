//! Rolling upgrades: two versions of the notifier on one database.

use platform::testing::eventually;
use uuid::Uuid;

use crate::stage::{ACCOUNT, SOON, Stage, event};

/// The previous version's claim: a claimed row is `sending`.
const CLAIM_BEFORE: &str = "
    with due as (
        select id from notifier.notifications
        where state = 'waiting' and channel = $4 and next_try_at <= $2
        order by next_try_at limit $1
        for update skip locked)
    update notifier.notifications n
    set state = 'sending', leased_until = $3, tries = tries + 1
    from due where n.id = due.id
    returning n.id, n.tries";

/// The previous version's insert.
const PUT_BEFORE: &str = "
    insert into notifier.notifications
        (booking_id, event_id, account_id, kind, occasion, channel, facts, state, next_try_at, created_at)
    values ($1, $2, $3, 'expired', 0, 'email', $4, 'waiting', $5, $5)
    on conflict (booking_id, account_id, kind, occasion, channel) do nothing";

/// The previous version's record of a result.
const SETTLE_BEFORE: &str = "
    update notifier.notifications n
    set state = 'sent', last_error = null, leased_until = null, sent_at = $3
    where n.id = $1 and n.tries = $2 and n.state in ('sending', 'uncertain')
    returning n.id";

#[tokio::test]
async fn the_version_before_goes_on_beside_this_one() {
    let stage = Stage::start().await;
    let event = event(&stage.app.ctx.clock);
    stage.introduce(&event, None).await;
    let db = &stage.app.ctx.db;
    let now = stage.app.ctx.clock.now();
    // This version sends what the previous one inserts.
    let paid = stage.paid(&event, 1);
    let id = paid.booking.booking_id;
    let facts = serde_json::json!({ "booking": paid.booking });
    for _ in 0..2 {
        sqlx::query(PUT_BEFORE)
            .bind(id.0)
            .bind(event.id.0)
            .bind(ACCOUNT.0)
            .bind(&facts)
            .bind(now)
            .execute(db)
            .await
            .unwrap();
    }
    stage.mail_is(id, "expired", "sent").await;
    assert_eq!(stage.rows(id).await.len(), 1);

    // This version does not touch what the previous one has claimed.
    stage.app.ctx.shutdown.soft().cancel();
    stage.app.ctx.shutdown.tasks_left().await;
    let node = stage.app.another_node().await;
    let other = stage.paid(&event, 1).booking.booking_id;
    sqlx::query(PUT_BEFORE)
        .bind(other.0)
        .bind(event.id.0)
        .bind(ACCOUNT.0)
        .bind(&facts)
        .bind(now)
        .execute(&node.db)
        .await
        .unwrap();
    let (row, tries): (Uuid, i32) = sqlx::query_as(CLAIM_BEFORE)
        .bind(10_i64)
        .bind(now)
        .bind(now + chrono::TimeDelta::minutes(2))
        .bind("email")
        .fetch_one(&node.db)
        .await
        .unwrap();
    let _routes = stage.start_notifier(node.clone()).await;
    let next = stage.pay(&event).await.booking.booking_id;
    stage.mail_is(next, "confirmed", "sent").await;
    assert_eq!(stage.rows(other).await[0].state, "sending");
    let settled: Vec<(Uuid,)> = sqlx::query_as(SETTLE_BEFORE)
        .bind(row)
        .bind(tries)
        .bind(now)
        .fetch_all(&node.db)
        .await
        .unwrap();
    assert_eq!(settled, [(row,)]);
    assert!(stage.mails(other, "expired").is_empty());
    node.shutdown.soft().cancel();
    node.shutdown.tasks_left().await;
    stage.app.finish().await;
}

#[tokio::test]
async fn what_a_later_version_wrote_is_left_to_it() {
    let stage = Stage::start().await;
    let known = event(&stage.app.ctx.clock);
    stage.introduce(&known, None).await;
    let db = &stage.app.ctx.db;
    let now = stage.app.ctx.clock.now();
    sqlx::query("alter table notifier.notifications drop constraint notifications_kind_check")
        .execute(db)
        .await
        .unwrap();
    sqlx::query(
        "insert into notifier.events (event_id, version, event, starts_at, cancelled)
         select 2, 1, jsonb_set(jsonb_set(event, '{state}', '\"postponed\"'), '{id}', '2'), starts_at, false
         from notifier.events",
    )
    .execute(db)
    .await
    .unwrap();
    let paid = stage.paid(&known, 1);
    let facts = serde_json::to_value(&paid).unwrap();
    let unreadable = serde_json::json!({ "booking": "in a later form" });
    let later = [
        (1_i64, "tomorrow", &facts),
        (2, "confirmed", &facts),
        (1, "confirmed", &unreadable),
    ];
    let mut ids = Vec::new();
    for (event_id, kind, facts) in later {
        let id: Uuid = sqlx::query_scalar(
            "insert into notifier.notifications
                 (booking_id, event_id, account_id, kind, channel, facts, state, next_try_at, created_at)
             values (gen_random_uuid(), $1, $2, $3, 'email', $4, 'waiting', $5, $5) returning id",
        )
        .bind(event_id)
        .bind(ACCOUNT.0)
        .bind(kind)
        .bind(facts)
        .bind(now - chrono::TimeDelta::hours(1))
        .fetch_one(db)
        .await
        .unwrap();
        ids.push(id);
    }
    for _ in 0..3 {
        let id = stage.pay(&known).await.booking.booking_id;
        stage.mail_is(id, "confirmed", "sent").await;
    }
    let put_aside = "select count(*) from notifier.notifications
                     where state = 'waiting' and next_try_at > created_at + interval '90 minutes'";
    eventually(SOON, async || stage.number(put_aside).await == 2).await;
    let states: Vec<(String, String, i32)> = sqlx::query_as(
        "select kind, state, tries from notifier.notifications where id = any($1) order by kind",
    )
    .bind(&ids)
    .fetch_all(db)
    .await
    .unwrap();
    let expected = [("confirmed", 1), ("confirmed", 1), ("tomorrow", 0)]
        .map(|(kind, tries)| (kind.to_owned(), "waiting".to_owned(), tries));
    assert_eq!(states, expected);
    assert_eq!(stage.mail.inbox().len(), 3);
    stage.app.finish().await;
}
