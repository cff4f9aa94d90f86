//! Leases over shards of sales. A shard has one owner for as long as the owner's lease runs by the
//! database's clock, and a fencing token (its epoch) that grows with each change of owner.
//!
//! A node renews one row of its own; the rows of shards are written only when they change hands.
//! Standby nodes read before they write, so that they never block the owners.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use domain::EventId;
use platform::service::Context;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, PgConnection};
use uuid::Uuid;

/// Number of shards; equals the rows of `admission.shards`.
const SHARDS: i16 = 32;
/// Duration of a lease: a node that does not renew within it is replaced.
const LEASE: Duration = Duration::from_secs(2);
/// Safety margin: the owner considers its lease expired this long before the database does.
const LEASE_MARGIN: Duration = Duration::from_millis(100);
/// The lease of the old, unsharded leader row is renewed when less than this is left of it.
const SHARED_RENEWAL: Duration = Duration::from_secs(1);
/// Deadline of one turn.
const TURN_LIMIT: Duration = Duration::from_secs(1);
/// Surplus shards are handed over once the number of nodes has been stable for this long.
const SETTLED_AFTER: Duration = Duration::from_secs(1);
/// Name under which all sharded nodes together hold the old leader row, `admission.leader`. It
/// excludes nodes of the version before shards.
const SHARED: &str = "shards";

fn shard_of(event_id: EventId) -> i16 {
    i16::try_from(event_id.0.rem_euclid(SHARDS.into())).expect("below the count of shards")
}

/// The shards a node owns, as of its last renewal. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct HeldShards(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    epochs: BTreeMap<i16, i64>,
    until: Option<Instant>,
    /// The database's clock at some instant.
    clock: Option<(Instant, DateTime<Utc>)>,
    offset: TimeDelta,
    generation: Option<Uuid>,
}

impl HeldShards {
    /// Returns the epoch that fences writes of the sale's line; `None` when another node owns its
    /// shard.
    #[must_use]
    pub fn epoch_of(&self, event_id: EventId) -> Option<i64> {
        self.0.epochs.get(&shard_of(event_id)).copied()
    }

    /// Returns the number of shards the node owns.
    #[must_use]
    pub fn shards(&self) -> usize {
        self.0.epochs.len()
    }

    /// Returns whether both hold the same shards under the same epochs.
    pub(super) fn has_same_shards(&self, other: &Self) -> bool {
        self.0.epochs == other.0.epochs
    }

    /// Returns whether no shard is owned, or the lease has expired.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.epochs.is_empty() || self.0.until.is_none_or(|until| Instant::now() >= until)
    }

    /// The database's time: as of the last renewal, plus the time elapsed since. Independent of
    /// this machine's clock, which may be wrong or jump. `None` before the first renewal.
    #[must_use]
    pub fn database_time(&self) -> Option<DateTime<Utc>> {
        let (instant, then) = self.0.clock?;
        Some(then + instant.elapsed())
    }

    /// The database's clock minus this machine's.
    pub(super) fn clock_offset(&self) -> TimeDelta {
        self.0.offset
    }

    /// Identifies the history of the database in which the shards were owned.
    pub(super) fn generation(&self) -> Option<Uuid> {
        self.0.generation
    }
}

/// A node that competes for shards, on a connection of its own.
#[derive(Debug)]
pub struct Leases {
    ctx: Context,
    conn: Option<PgConnection>,
    node: String,
    held: HeldShards,
    /// Number of live nodes, and since when it has been stable.
    candidates: (i64, Instant),
}

/// State read in one turn.
struct LeaseState {
    /// The database's clock at some instant.
    clock: (Instant, DateTime<Utc>),
    /// The database's clock minus this machine's.
    offset: TimeDelta,
    candidates: i64,
    /// A node of the version before shards leads.
    is_taken: bool,
    /// The shared leader row is due for renewal.
    is_due: bool,
    generation: Option<Uuid>,
    mine: BTreeMap<i16, i64>,
    free: BTreeMap<i16, i64>,
}

impl Leases {
    /// A candidate named `node`; names must be unique.
    #[must_use]
    pub fn new(ctx: &Context, node: &str) -> Self {
        Self {
            ctx: ctx.clone(),
            conn: None,
            node: node.to_owned(),
            held: HeldShards::default(),
            candidates: (0, Instant::now()),
        }
    }

    /// Returns the number of live nodes, this one included.
    pub(super) fn candidates(&self) -> i64 {
        self.candidates.0
    }

    /// Renews the lease, claims free shards up to this node's fair share, and releases shards
    /// beyond it. Returns the shards owned now.
    ///
    /// # Errors
    /// When PostgreSQL fails or does not answer within a second. Shards stay owned until the lease
    /// expires.
    pub async fn turn(&mut self) -> Result<HeldShards, sqlx::Error> {
        let turn = tokio::time::timeout(TURN_LIMIT, self.try_turn()).await;
        let outcome = turn.unwrap_or_else(|_| {
            Err(sqlx::Error::Io(std::io::Error::from(
                std::io::ErrorKind::TimedOut,
            )))
        });
        if outcome.is_err() {
            // The connection may be silent: the next turn opens another.
            self.conn = None;
        }
        outcome
    }

    /// Releases every shard, so that other nodes need not wait for the lease to expire.
    ///
    /// # Errors
    /// When PostgreSQL fails; the lease then expires within seconds.
    pub async fn resign(&mut self) -> Result<(), sqlx::Error> {
        self.held = HeldShards::default();
        let node = self.node.clone();
        let conn = self.connection().await?;
        sqlx::query!(
            "with gone as (delete from admission.nodes where node = $1)
             update admission.shards set owner = null where owner = $1",
            node,
        )
        .execute(conn)
        .await?;
        Ok(())
    }

    async fn connection(&mut self) -> Result<&mut PgConnection, sqlx::Error> {
        if self.conn.is_none() {
            let options = PgConnectOptions::clone(&self.ctx.db.connect_options());
            let options = options.application_name("admission-lease");
            let mut conn = options.connect().await?;
            // A turn that timed out must not hold a place in a lock queue of the server.
            sqlx::raw_sql("set statement_timeout = '1s'")
                .execute(&mut conn)
                .await?;
            self.conn = Some(conn);
        }
        Ok(self.conn.as_mut().expect("connected above"))
    }

    async fn try_turn(&mut self) -> Result<HeldShards, sqlx::Error> {
        let (node, clock) = (self.node.clone(), self.ctx.clock.clone());
        let was_settled = self.candidates;
        let conn = self.connection().await?;
        let renewed_at = Instant::now();
        renew(conn, &node).await?;
        let before = clock.now();
        let mut state = read(conn, &node, before).await?;
        if state.generation.is_none() {
            state.generation = Some(begin_generation(conn).await?);
        }
        let candidates = if was_settled.0 == state.candidates {
            was_settled
        } else {
            (state.candidates, Instant::now())
        };
        if state.is_taken {
            state.mine.clear();
        } else {
            if state.is_due {
                renew_shared(conn).await?;
            }
            rebalance(conn, &node, candidates, &mut state).await?;
        }
        self.candidates = candidates;
        self.held = HeldShards(Arc::new(Inner {
            epochs: state.mine,
            until: Some(renewed_at + LEASE - LEASE_MARGIN),
            clock: Some(state.clock),
            offset: state.offset,
            generation: state.generation,
        }));
        Ok(self.held.clone())
    }
}

async fn renew(conn: &mut PgConnection, node: &str) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "insert into admission.nodes (node, until)
         values ($1, clock_timestamp() + make_interval(secs => $2))
         on conflict (node) do update set until = excluded.until",
        node,
        LEASE.as_secs_f64(),
    )
    .execute(conn)
    .await?;
    Ok(())
}

async fn read(
    conn: &mut PgConnection,
    node: &str,
    before: DateTime<Utc>,
) -> Result<LeaseState, sqlx::Error> {
    let asked = Instant::now();
    let row = sqlx::query!(
        r#"select clock_timestamp() as "now!",
                  (select count(*) from admission.nodes where until > clock_timestamp())
                      as "candidates!",
                  exists (select from admission.leader
                          where node <> $2 and leads_until > clock_timestamp()) as "is_taken!",
                  not exists (select from admission.leader
                              where node = $2
                                and leads_until > clock_timestamp() + make_interval(secs => $3))
                      as "is_due!",
                  (select id from admission.generation
                   where timeline = substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))
                      as generation,
                  coalesce(array_agg(s.shard) filter (where s.owner = $1), '{}') as "mine!",
                  coalesce(array_agg(s.epoch) filter (where s.owner = $1), '{}') as "epochs!",
                  coalesce(array_agg(s.shard) filter (where n.node is null), '{}') as "free!",
                  coalesce(array_agg(s.epoch) filter (where n.node is null), '{}')
                      as "free_epochs!"
           from admission.shards s
           left join admission.nodes n on n.node = s.owner and n.until > clock_timestamp()"#,
        node,
        SHARED,
        SHARED_RENEWAL.as_secs_f64(),
    )
    .fetch_one(conn)
    .await?;
    // The answer is as old as its way back.
    let half = asked.elapsed() / 2;
    Ok(LeaseState {
        clock: (asked + half, row.now),
        offset: row.now - (before + half),
        candidates: row.candidates,
        is_taken: row.is_taken,
        is_due: row.is_due,
        generation: row.generation,
        mine: row.mine.into_iter().zip(row.epochs).collect(),
        free: row.free.into_iter().zip(row.free_epochs).collect(),
    })
}

/// Starts a new generation after a failover: what nodes hold in memory may never have been
/// committed on this primary.
async fn begin_generation(conn: &mut PgConnection) -> Result<Uuid, sqlx::Error> {
    let id = sqlx::query_scalar!(
        "insert into admission.generation as g (id, timeline)
         values ($1, substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))
         on conflict (only_row) do update
         set id = case when g.timeline = excluded.timeline then g.id else excluded.id end,
             timeline = excluded.timeline
         returning id",
        Uuid::new_v4(),
    )
    .fetch_one(conn)
    .await?;
    tracing::info!(generation = %id, "database timeline changed, started a new generation");
    Ok(id)
}

/// Renews the leader row on behalf of all sharded nodes. With `skip locked` the others don't
/// wait for the first.
async fn renew_shared(conn: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "insert into admission.leader (node, epoch, leads_until)
         select $1, 1, clock_timestamp()
         where not exists (select from admission.leader)
         on conflict do nothing",
        SHARED,
    )
    .execute(&mut *conn)
    .await?;
    sqlx::query!(
        "update admission.leader l
         set node = $1, leads_until = clock_timestamp() + make_interval(secs => $2),
             epoch = l.epoch + case when l.node = $1 then 0 else 1 end
         where only_row in (select only_row from admission.leader
                            where node = $1 or leads_until <= clock_timestamp()
                            for update skip locked)",
        SHARED,
        LEASE.as_secs_f64(),
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Claims free shards, or releases those beyond this node's fair share.
async fn rebalance(
    conn: &mut PgConnection,
    node: &str,
    (candidates, since): (i64, Instant),
    state: &mut LeaseState,
) -> Result<(), sqlx::Error> {
    let nodes = usize::try_from(candidates.max(1)).expect("a few nodes");
    let share = usize::from(SHARDS.unsigned_abs()).div_ceil(nodes);
    let mine = state.mine.len();
    if mine < share && !state.free.is_empty() {
        let mut wanted: Vec<_> = std::mem::take(&mut state.free).into_iter().collect();
        // Nodes start at different shards, so that they rarely contend for the same.
        let start = node.bytes().map(usize::from).sum::<usize>() % wanted.len();
        wanted.rotate_left(start);
        wanted.truncate(share - mine);
        state.mine.extend(claim(conn, node, &wanted).await?);
    } else if mine > share && since.elapsed() >= SETTLED_AFTER {
        let extra: Vec<i16> = state.mine.keys().copied().skip(share).collect();
        sqlx::query!(
            "update admission.shards set owner = null where owner = $1 and shard = any($2)",
            node,
            &extra,
        )
        .execute(conn)
        .await?;
        state.mine.retain(|shard, _| !extra.contains(shard));
    }
    Ok(())
}

/// Claims shards whose epoch is still the one that was read: of two competing nodes, one wins.
async fn claim(
    conn: &mut PgConnection,
    node: &str,
    wanted: &[(i16, i64)],
) -> Result<Vec<(i16, i64)>, sqlx::Error> {
    let (shards, epochs): (Vec<i16>, Vec<i64>) = wanted.iter().copied().unzip();
    // One statement, whose locks never depend on this node: a silent one would hold every turn up.
    let claimed = sqlx::query!(
        r#"with leader as (
               update admission.leader set epoch = epoch + 1 where node = $1 returning epoch
           )
           update admission.shards s set owner = $2, epoch = leader.epoch
           from leader, unnest($3::smallint[], $4::bigint[]) as u (shard, epoch)
           where s.shard = u.shard and s.epoch = u.epoch
           returning s.shard, s.epoch"#,
        SHARED,
        node,
        &shards,
        &epochs,
    )
    .fetch_all(conn)
    .await?;
    // None when other nodes were first, or one of the version before shards took the leader row.
    if let Some(first) = claimed.first() {
        let epoch = first.epoch;
        tracing::info!(node, epoch, shards = claimed.len(), "took over shards");
    }
    Ok(claimed
        .into_iter()
        .map(|row| (row.shard, row.epoch))
        .collect())
}
