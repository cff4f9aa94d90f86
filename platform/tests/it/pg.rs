use std::sync::atomic::{AtomicU32, Ordering};

use platform::pg::run_tx;
use platform::testing::TestApp;
use sqlx::{Connection, Executor};
use tokio::sync::Barrier;

#[tokio::test]
async fn of_two_deadlocked_transactions_both_end_up_committed() {
    let app = TestApp::start().await;
    let pool = &app.ctx.db;
    pool.execute("CREATE TABLE pair (id int PRIMARY KEY, n int NOT NULL)")
        .await
        .unwrap();
    pool.execute("INSERT INTO pair VALUES (1, 0), (2, 0)")
        .await
        .unwrap();
    let both_hold_one = Barrier::new(2);
    let attempts = AtomicU32::new(0);
    let bump = async |first: i32, second: i32, tries: AtomicU32| {
        let (attempts, tries, barrier) = (&attempts, &tries, &both_hold_one);
        run_tx(pool, "test", move |tx| {
            Box::pin(async move {
                attempts.fetch_add(1, Ordering::SeqCst);
                let update = "UPDATE pair SET n = n + 1 WHERE id = $1";
                sqlx::query(update).bind(first).execute(&mut **tx).await?;
                if tries.fetch_add(1, Ordering::SeqCst) == 0 {
                    barrier.wait().await;
                }
                sqlx::query(update).bind(second).execute(&mut **tx).await?;
                Ok::<_, sqlx::Error>(())
            })
        })
        .await
    };
    let (one, two) = tokio::join!(bump(1, 2, AtomicU32::new(0)), bump(2, 1, AtomicU32::new(0)));
    one.unwrap();
    two.unwrap();
    assert!(
        attempts.load(Ordering::SeqCst) >= 3,
        "there was no deadlock"
    );
    let total: i64 = sqlx::query_scalar("SELECT sum(n) FROM pair")
        .fetch_one(pool)
        .await
        .unwrap();
    assert_eq!(total, 4);
    app.finish().await;
}

#[tokio::test]
async fn an_error_rolls_everything_back() {
    let app = TestApp::start().await;
    let pool = &app.ctx.db;
    pool.execute("CREATE TABLE single (id int PRIMARY KEY)")
        .await
        .unwrap();
    let result = run_tx(pool, "test", |tx| {
        Box::pin(async move {
            tx.execute("INSERT INTO single VALUES (1)").await?;
            Err::<(), _>(sqlx::Error::RowNotFound)
        })
    })
    .await;
    assert!(result.is_err());
    let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM single")
        .fetch_one(pool)
        .await
        .unwrap();
    assert_eq!(rows, 0);
    app.finish().await;
}

#[tokio::test]
async fn a_transaction_runs_on_any_thread_and_may_borrow() {
    let app = TestApp::start().await;
    let pool = app.ctx.db.clone();
    let task = tokio::spawn(async move {
        let name = String::from("borrowed");
        let name = name.as_str();
        run_tx(&pool, "test", |tx| {
            Box::pin(async move {
                tx.ping().await?;
                Ok::<_, sqlx::Error>(name.len())
            })
        })
        .await
    });
    assert_eq!(task.await.unwrap().unwrap(), 8);
    app.finish().await;
}
