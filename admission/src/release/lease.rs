//! Who is the leader: whoever has the lease row, by the database's clock.

use std::time::Duration;

use sqlx::PgPool;

/// A leader that does not renew its lease for so long is replaced.
const LEASE: Duration = Duration::from_secs(2);

/// The epoch, if `node` has or gets the lease. Each change of leader has a higher one.
pub(super) async fn hold(db: &PgPool, node: &str) -> Result<Option<i64>, sqlx::Error> {
    sqlx::query_scalar!(
        "insert into admission.leader as l (node, epoch, leads_until)
         values ($1, 1, clock_timestamp() + make_interval(secs => $2))
         on conflict (only_row) do update
         set node = excluded.node,
             epoch = l.epoch + case when l.node = excluded.node then 0 else 1 end,
             leads_until = excluded.leads_until
         where l.node = excluded.node or l.leads_until <= clock_timestamp()
         returning epoch",
        node,
        LEASE.as_secs_f64(),
    )
    .fetch_optional(db)
    .await
}

/// Ends the lease, so that another node need not wait for its end.
pub(super) async fn give_up(db: &PgPool, node: &str) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "update admission.leader set leads_until = clock_timestamp() where node = $1",
        node,
    )
    .execute(db)
    .await?;
    Ok(())
}
