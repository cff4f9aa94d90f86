//! Quarantine: a failing sale stops only itself.

use std::collections::HashMap;
use std::sync::Arc;

use admission::release::{Leader, Leases};
use chrono::{DateTime, TimeDelta, Utc};
use domain::EventId;
use domain::sale::SaleSettings;
use platform::testing::TestApp;
use sqlx::PgPool;

use crate::line::{sale, start, tick};

const SICK: EventId = EventId(1);
const WELL: EventId = EventId(2);

/// Two sales with a thousand people each, and a leader.
struct Two {
    app: TestApp,
    sales: [Arc<SaleSettings>; 2],
    leases: Leases,
    leader: Leader,
    now: DateTime<Utc>,
}

impl Two {
    async fn new(sick: SaleSettings) -> Self {
        let app = TestApp::start().await;
        for event in [SICK, WELL] {
            sqlx::query("insert into waiting_room.lines (event_id, joined) values ($1, 1000)")
                .bind(event.0)
                .execute(&app.ctx.db)
                .await
                .unwrap();
        }
        let with = |event_id, sale: SaleSettings| Arc::new(SaleSettings { event_id, ..sale });
        Self {
            leases: Leases::new(&app.ctx, "first"),
            leader: Leader::new(&app.ctx),
            sales: [with(SICK, sick), with(WELL, sale())],
            now: start(),
            app,
        }
    }

    async fn ticks(&mut self, count: usize) {
        let (leader, leases) = (&mut self.leader, &mut self.leases);
        for _ in 0..count {
            self.now += TimeDelta::milliseconds(250);
            tick(leader, leases, self.now, &self.sales, &HashMap::new()).await;
        }
    }

    /// Returns both cursors.
    async fn cursors(&self) -> [i64; 2] {
        let cursor = async |event: EventId| {
            sqlx::query_scalar("select cursor from admission.lines where event_id = $1")
                .bind(event.0)
                .fetch_optional(&self.app.ctx.db)
                .await
                .unwrap()
                .unwrap_or(0)
        };
        [cursor(SICK).await, cursor(WELL).await]
    }

    /// Asserts that only the sick sale stops, and that it resumes after `mend`.
    async fn stands_still_alone_until(mut self, mend: impl AsyncFnOnce(&PgPool)) {
        self.ticks(1).await;
        let [sick, well] = self.cursors().await;
        self.ticks(20).await;
        let after = self.cursors().await;
        assert_eq!(after[0], sick, "it stands");
        assert!(
            after[1] >= well + 30,
            "the other goes on: {well} to {}",
            after[1]
        );
        mend(&self.app.ctx.db).await;
        // The backoff has reached 8 s at most.
        self.ticks(60).await;
        let last = self.cursors().await;
        assert!(last[0] > sick, "it goes on when it can be read again");
        self.app.finish().await;
    }
}

#[tokio::test]
async fn an_unreadable_snapshot_stops_its_own_sale_only() {
    let mut two = Two::new(sale()).await;
    two.ticks(4).await;
    let db = two.app.ctx.db.clone();
    let kept: serde_json::Value =
        sqlx::query_scalar("select snapshot from admission.lines where event_id = 1")
            .fetch_one(&db)
            .await
            .unwrap();
    let broken = "update admission.lines set snapshot = '{\"of\": \"a later version\"}'
                  where event_id = 1";
    sqlx::query(broken).execute(&db).await.unwrap();
    two.leader = Leader::new(&two.app.ctx);
    two.stands_still_alone_until(async |db| {
        sqlx::query("update admission.lines set snapshot = $1 where event_id = 1")
            .bind(kept)
            .execute(db)
            .await
            .unwrap();
    })
    .await;
}

/// Adds a trigger by which every update of `table` for the sick sale fails.
async fn refuse(db: &PgPool, table: &str) {
    let statement = format!(
        "create function refuse() returns trigger language plpgsql as
         $$ begin if new.event_id = 1 then raise 'no'; end if; return new; end $$;
         create trigger refuse before update on {table} for each row execute function refuse()"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(statement))
        .execute(db)
        .await
        .unwrap();
}

async fn allow(db: &PgPool) {
    let drop = "drop function refuse() cascade";
    sqlx::raw_sql(drop).execute(db).await.unwrap();
}

#[tokio::test]
async fn a_lottery_that_fails_stops_its_own_sale_only() {
    let two = Two::new(SaleSettings {
        lobby_seconds: 600,
        ..sale()
    })
    .await;
    refuse(&two.app.ctx.db, "admission.draws").await;
    two.stands_still_alone_until(allow).await;
}

#[tokio::test]
async fn a_line_that_can_not_be_written_stops_its_own_sale_only() {
    let two = Two::new(sale()).await;
    refuse(&two.app.ctx.db, "admission.lines").await;
    two.stands_still_alone_until(allow).await;
}
