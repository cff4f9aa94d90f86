use chrono::{DateTime, TimeDelta, Utc};
use platform::idempotency::{
    Begin, RETENTION, RUNNING_LIMIT, Token, abandon, begin, finish, request_hash, sweep,
};
use platform::testing::TestApp;

const SCOPE: &str = "account 1 POST /api/bookings";

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000, 0).unwrap()
}

fn fresh(begun: Begin) -> Token {
    match begun {
        Begin::Fresh(token) => token,
        other => panic!("not fresh: {other:?}"),
    }
}

#[tokio::test]
async fn a_repeat_gets_the_first_answer() {
    let app = TestApp::start().await;
    let hash = request_hash(&[b"body"]);
    let mut tx = app.ctx.db.begin().await.unwrap();
    let token = fresh(begin(&mut tx, SCOPE, "k", &hash, now()).await.unwrap());
    assert!(finish(&mut tx, token, 201, b"{}").await.unwrap());
    tx.commit().await.unwrap();

    let mut conn = app.ctx.db.acquire().await.unwrap();
    let later = now() + RETENTION - TimeDelta::seconds(1);
    let replay = begin(&mut conn, SCOPE, "k", &hash, later).await.unwrap();
    assert_eq!(
        replay,
        Begin::Replay {
            status: 201,
            body: b"{}".to_vec()
        }
    );
    let other = begin(&mut conn, "account 2", "k", &hash, now())
        .await
        .unwrap();
    assert!(matches!(other, Begin::Fresh(_)), "{other:?}");
    drop(conn);
    app.finish().await;
}

#[tokio::test]
async fn a_key_with_another_request_is_a_mismatch() {
    let app = TestApp::start().await;
    let mut conn = app.ctx.db.acquire().await.unwrap();
    let token = fresh(
        begin(&mut conn, SCOPE, "k", &request_hash(&[b"one"]), now())
            .await
            .unwrap(),
    );
    let two = request_hash(&[b"two"]);
    assert_eq!(
        begin(&mut conn, SCOPE, "k", &two, now()).await.unwrap(),
        Begin::Mismatch
    );
    finish(&mut conn, token, 200, b"").await.unwrap();
    assert_eq!(
        begin(&mut conn, SCOPE, "k", &two, now()).await.unwrap(),
        Begin::Mismatch
    );
    drop(conn);
    app.finish().await;
}

#[tokio::test]
async fn a_repeat_during_the_first_is_told_so_at_once() {
    let app = TestApp::start().await;
    let hash = request_hash(&[b"body"]);
    let mut first = app.ctx.db.begin().await.unwrap();
    let token = fresh(begin(&mut first, SCOPE, "k", &hash, now()).await.unwrap());

    // Both before the first has committed anything, and after.
    let mut conn = app.ctx.db.acquire().await.unwrap();
    assert_eq!(
        begin(&mut conn, SCOPE, "k", &hash, now()).await.unwrap(),
        Begin::InProgress
    );
    first.commit().await.unwrap();
    assert_eq!(
        begin(&mut conn, SCOPE, "k", &hash, now()).await.unwrap(),
        Begin::InProgress
    );

    finish(&mut conn, token, 200, b"x").await.unwrap();
    let replay = begin(&mut conn, SCOPE, "k", &hash, now()).await.unwrap();
    assert_eq!(
        replay,
        Begin::Replay {
            status: 200,
            body: b"x".to_vec()
        }
    );
    drop(conn);
    app.finish().await;
}

#[tokio::test]
async fn a_rolled_back_request_may_be_repeated() {
    let app = TestApp::start().await;
    let hash = request_hash(&[b"body"]);
    let mut tx = app.ctx.db.begin().await.unwrap();
    let _lost = fresh(begin(&mut tx, SCOPE, "k", &hash, now()).await.unwrap());
    tx.rollback().await.unwrap();

    let mut conn = app.ctx.db.acquire().await.unwrap();
    let token = fresh(begin(&mut conn, SCOPE, "k", &hash, now()).await.unwrap());
    abandon(&mut conn, token).await.unwrap();
    let _again = fresh(begin(&mut conn, SCOPE, "k", &hash, now()).await.unwrap());
    drop(conn);
    app.finish().await;
}

#[tokio::test]
async fn a_crashed_request_is_run_again_and_its_late_answer_is_ignored() {
    let app = TestApp::start().await;
    let hash = request_hash(&[b"body"]);
    let mut conn = app.ctx.db.acquire().await.unwrap();
    let crashed = fresh(begin(&mut conn, SCOPE, "k", &hash, now()).await.unwrap());
    let later = now() + RUNNING_LIMIT;
    let again = fresh(begin(&mut conn, SCOPE, "k", &hash, later).await.unwrap());
    assert!(!finish(&mut conn, crashed, 500, b"late").await.unwrap());
    assert!(finish(&mut conn, again, 201, b"right").await.unwrap());
    let replay = begin(&mut conn, SCOPE, "k", &hash, later).await.unwrap();
    assert_eq!(
        replay,
        Begin::Replay {
            status: 201,
            body: b"right".to_vec()
        }
    );
    drop(conn);
    app.finish().await;
}

#[tokio::test]
async fn keys_are_forgotten_after_a_day() {
    let app = TestApp::start().await;
    let mut conn = app.ctx.db.acquire().await.unwrap();
    let one = request_hash(&[b"one"]);
    let token = fresh(begin(&mut conn, SCOPE, "k", &one, now()).await.unwrap());
    finish(&mut conn, token, 200, b"").await.unwrap();
    let tomorrow = now() + RETENTION;
    let two = request_hash(&[b"two"]);
    let token = fresh(begin(&mut conn, SCOPE, "k", &two, tomorrow).await.unwrap());
    finish(&mut conn, token, 200, b"").await.unwrap();
    assert_eq!(sweep(&app.ctx.db, tomorrow).await.unwrap(), 0);
    assert_eq!(sweep(&app.ctx.db, tomorrow + RETENTION).await.unwrap(), 1);
    drop(conn);
    app.finish().await;
}
