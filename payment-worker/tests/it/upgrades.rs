//! Rolling upgrades: two versions of the payment worker on one database.

use chrono::TimeDelta;
use domain::booking::BookingFacts;
use domain::message::PaymentAuthorised;
use platform::testing::eventually;
use sqlx::types::Uuid;
use sqlx::{PgConnection, types::Json};

use crate::shop::{PATIENCE, Shop};

/// The previous version's insert of a payment.
const PUT_BEFORE: &str = "
    insert into payment.payments
        (booking_id, event_id, account_id, amount_minor, currency, state,
         created_at, updated_at, checked_at)
    values ($1, $2, $3, $4, 'eur', 'pending', $5, $5, $5)
    on conflict (booking_id) do nothing
    returning booking_id";

/// The previous version's insert of an operation.
const ASK_BEFORE: &str = "
    insert into payment.operations
        (id, booking_id, kind, refund_id, attempt, idempotency_key, params, state,
         next_try_at, created_at, updated_at)
    values (gen_random_uuid(), $1, 'create', null, 1, 'onsale-create-' || $1 || '-1', $2, 'pending',
            $3, $3, $3)
    on conflict (booking_id, kind, refund_id) where state = 'pending' do nothing";

/// The previous version's claim.
const CLAIM_BEFORE: &str = "
    with due as (
        select id from payment.operations
        where state = 'pending' and kind = $4 and next_try_at <= $2
          and (leased_until is null or leased_until <= $2)
          and (select failures < $5 from payment.breaker)
        order by next_try_at limit $1
        for update skip locked)
    update payment.operations o
    set leased_until = $3, tries = tries + 1, updated_at = $2
    from due, payment.payments p
    where o.id = due.id and p.booking_id = o.booking_id
    returning o.id, o.tries";

/// The previous version's end of an operation.
const FINISH_BEFORE: &str = "
    update payment.operations
    set state = 'succeeded', last_error = null, leased_until = null, updated_at = $3
    where id = $1 and tries = $2 and state = 'pending'";

async fn ask_before(conn: &mut PgConnection, booking: &BookingFacts) {
    let (id, now) = (booking.booking_id.0, booking.created_at);
    let amount = booking.total.amount_minor;
    let put: Vec<(Uuid,)> = sqlx::query_as(PUT_BEFORE)
        .bind(id)
        .bind(booking.event_id.0)
        .bind(booking.account_id.0)
        .bind(amount)
        .bind(now)
        .fetch_all(&mut *conn)
        .await
        .unwrap();
    assert_eq!(put.len(), 1);
    let params = serde_json::json!({
        "do": "create",
        "amount": { "amount_minor": amount, "currency": "eur" },
        "event_id": booking.event_id.0,
        "account_id": booking.account_id.0,
    });
    let asking = sqlx::query(ASK_BEFORE)
        .bind(id)
        .bind(Json(params))
        .bind(now);
    asking.execute(conn).await.unwrap();
}

#[tokio::test]
async fn the_version_before_goes_on_beside_this_one() {
    let shop = Shop::open().await;
    let db = &shop.app.ctx.db;

    // This version does not touch what the previous one has claimed.
    let theirs = shop.booking();
    let mut tx = db.begin().await.unwrap();
    ask_before(&mut tx, &theirs).await;
    let now = theirs.created_at;
    let claimed: Vec<(Uuid, i32)> = sqlx::query_as(CLAIM_BEFORE)
        .bind(10_i64)
        .bind(now)
        .bind(now + TimeDelta::hours(1))
        .bind("create")
        .bind(5)
        .fetch_all(&mut *tx)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    assert_eq!(claimed.len(), 1);

    // It does what the previous one asked for and did not begin.
    let ours = shop.booking();
    let mut conn = db.acquire().await.unwrap();
    ask_before(&mut conn, &ours).await;
    drop(conn);
    shop.wait_for_intent(&ours).await;
    assert!(shop.pay(&ours, "pm_card_visa").await);
    shop.wait_until_published::<PaymentAuthorised>(&ours).await;
    shop.confirm(&ours).await;
    shop.wait_for_state(&ours, "captured").await;

    let (operation, tries) = claimed[0];
    let ended = sqlx::query(FINISH_BEFORE)
        .bind(operation)
        .bind(tries)
        .bind(now)
        .execute(db)
        .await
        .unwrap();
    assert_eq!(ended.rows_affected(), 1, "nobody else claimed it");
    assert_eq!(shop.intent_id(&theirs).await, None);
    assert_eq!(shop.stripe.ledger().payment_intents().len(), 1);
    shop.close(&[&ours]).await;
}

#[tokio::test]
async fn what_a_later_version_wrote_holds_up_no_other() {
    let shop = Shop::open().await;
    let db = &shop.app.ctx.db;
    let unknown = "alter table payment.payments drop constraint payments_state_check";
    sqlx::query(unknown).execute(db).await.unwrap();
    let later = shop.hold().await;
    let postpone = sqlx::query("update payment.payments set state = 'postponed'");
    postpone.execute(db).await.unwrap();
    // It is met by a message, by a webhook and by the reconciler.
    assert!(shop.pay(&later, "pm_card_visa").await);
    shop.confirm(&later).await;
    let met = "select count(*) from payment.webhook_inbox
        where processed_at is null and note is not null";
    eventually(PATIENCE, async || shop.count(met).await == 1).await;
    let sold = shop.sell().await;
    shop.reconcile(1).await;
    assert_eq!(shop.state(&later).await, "postponed");
    assert_eq!(shop.state(&sold).await, "captured");
    shop.app.finish().await;
}
