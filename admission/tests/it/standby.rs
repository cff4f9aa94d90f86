//! What a node that owns no shards costs the nodes that do.

use admission::release::Leases;
use platform::testing::TestApp;
use sqlx::PgPool;

/// Returns the version of every row that the owners write. A row that was locked, too, has another:
/// a lock is written to the row.
async fn versions(db: &PgPool) -> Vec<String> {
    sqlx::query_scalar(
        "select concat_ws(' ', 'shard', shard, ctid, xmin, xmax) from admission.shards
         union all select concat_ws(' ', 'leader', ctid, xmin, xmax) from admission.leader
         union all select concat_ws(' ', 'generation', ctid, xmin, xmax) from admission.generation
         union all select concat_ws(' ', node, ctid, xmin, xmax) from admission.nodes
                   where node = 'owner'
         order by 1",
    )
    .fetch_all(db)
    .await
    .unwrap()
}

#[tokio::test]
async fn a_standby_neither_writes_nor_locks_what_the_owners_write() {
    let app = TestApp::start().await;
    let db = &app.ctx.db;
    let (mut owner, mut standby) = (
        Leases::new(&app.ctx, "owner"),
        Leases::new(&app.ctx, "standby"),
    );
    assert_eq!(owner.turn().await.unwrap().shards(), 32);
    // The owner's leases stay valid, however slow the machine is.
    let forever = "update admission.nodes set until = 'infinity';
                   update admission.leader set leads_until = 'infinity'";
    sqlx::raw_sql(forever).execute(db).await.unwrap();
    let before = versions(db).await;
    assert_eq!(before.len(), 32 + 3);
    for _ in 0..20 {
        assert!(standby.turn().await.unwrap().is_empty());
    }
    assert_eq!(versions(db).await, before);

    // What it reads is enough to take over when the owner's lease expires.
    let expired = "update admission.nodes set until = 'epoch' where node = 'owner'";
    sqlx::raw_sql(expired).execute(db).await.unwrap();
    assert_eq!(standby.turn().await.unwrap().shards(), 32);
    assert_ne!(versions(db).await, before);
    app.finish().await;
}
