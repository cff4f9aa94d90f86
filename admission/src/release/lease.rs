//! Leases over shards of sales. Each shard has one owner, while the owner's lease runs by the
//! database's clock, and a fencing token (its epoch) that grows at each change of owner.
//!
//! A node renews one row of its own; the rows of shards are written only when they change hands.
//! Standby nodes read before they write, so they cost the owners nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use domain::EventId;
use platform::service::Context;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection, PgConnection};
use uuid::Uuid;

/// How many shards there are, as in `admission.shards`.
const SHARDS: i16 = 32;
/// A node that does not renew its lease for so long is replaced.
const LEASE: Duration = Duration::from_secs(2);
/// The owner takes its lease to have ended this long before the database does.
const LEASE_MARGIN: Duration = Duration::from_millis(100);
/// The lease of nodes that know no shards is renewed when it ends within this time.
const SHARED_RENEWAL: Duration = Duration::from_secs(1);
/// Longest time one turn may take.
const TURN_LIMIT: Duration = Duration::from_secs(1);
/// Shards are handed over to other nodes when as many nodes have been there for so long.
const SETTLED_AFTER: Duration = Duration::from_secs(1);
/// The node that nodes which know shards are together in `admission.leader`.
const SHARED: &str = "shards";

fn shard_of(event_id: EventId) -> i16 {
    i16::try_from(event_id.0.rem_euclid(SHARDS.into())).expect("below the count of shards")
}

/// The shards that a node owns, as of its last renewal. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Held(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    epochs: BTreeMap<i16, i64>,
    until: Option<Instant>,
    offset: TimeDelta,
    generation: Option<Uuid>,
}

impl Held {
    /// The epoch under which the sale's line may be moved; `None` when its shard is another's.
    #[must_use]
    pub fn epoch_of(&self, event_id: EventId) -> Option<i64> {
        self.0.epochs.get(&shard_of(event_id)).copied()
    }

    /// How many shards the node owns.
    #[must_use]
    pub fn shards(&self) -> usize {
        self.0.epochs.len()
    }

    /// Whether both own the same, under the same epochs.
    pub(super) fn has_the_shards_of(&self, other: &Self) -> bool {
        self.0.epochs == other.0.epochs
    }

    /// Whether nothing is owned, or the lease has ended.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.epochs.is_empty() || self.0.until.is_none_or(|until| Instant::now() >= until)
    }

    /// The database's time when this machine's clock shows `local`.
    #[must_use]
    pub fn database_time(&self, local: DateTime<Utc>) -> DateTime<Utc> {
        local + self.0.offset
    }

    /// The database's clock less this machine's.
    pub(super) fn clock_offset(&self) -> TimeDelta {
        self.0.offset
    }

    /// Names the history of the database that was owned in.
    pub(super) fn generation(&self) -> Option<Uuid> {
        self.0.generation
    }
}

/// A node that takes part in sharing the shards out, on a connection of its own.
#[derive(Debug)]
pub struct Leases {
    ctx: Context,
    conn: Option<PgConnection>,
    node: String,
    held: Held,
    /// How many nodes there are, and since when.
    candidates: (i64, Instant),
}

/// What one reading shows.
struct Standing {
    /// The database's clock less this machine's.
    offset: TimeDelta,
    candidates: i64,
    /// Whether a node that knows no shards leads.
    is_taken: bool,
    /// Whether the common lease must be renewed.
    is_due: bool,
    generation: Option<Uuid>,
    mine: BTreeMap<i16, i64>,
    free: BTreeMap<i16, i64>,
}

impl Leases {
    /// A candidate named `node`, which must differ from all others.
    #[must_use]
    pub fn new(ctx: &Context, node: &str) -> Self {
        Self {
            ctx: ctx.clone(),
            conn: None,
            node: node.to_owned(),
            held: Held::default(),
            candidates: (0, Instant::now()),
        }
    }

    /// How many nodes take part.
    pub(super) fn candidates(&self) -> i64 {
        self.candidates.0
    }

    /// Renews the lease, claims shards that nobody owns up to this node's fair share, and hands
    /// over what it owns beyond. Returns what is owned now.
    ///
    /// # Errors
    /// When PostgreSQL fails or does not answer within a second. What was owned stays owned until
    /// the lease ends.
    pub async fn turn(&mut self) -> Result<Held, sqlx::Error> {
        let turn = tokio::time::timeout(TURN_LIMIT, self.try_turn()).await;
        let outcome = turn.unwrap_or_else(|_| {
            Err(sqlx::Error::Io(std::io::Error::from(
                std::io::ErrorKind::TimedOut,
            )))
        });
        if outcome.is_err() {
            // It may be muted: the next turn has a new one.
            self.conn = None;
        }
        outcome
    }

    /// Gives up every shard, so that other nodes need not wait for the end of the lease.
    ///
    /// # Errors
    /// When PostgreSQL fails; the lease then ends by itself within seconds.
    pub async fn resign(&mut self) -> Result<(), sqlx::Error> {
        self.held = Held::default();
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
            self.conn = Some(options.connect().await?);
        }
        Ok(self.conn.as_mut().expect("connected above"))
    }

    async fn try_turn(&mut self) -> Result<Held, sqlx::Error> {
        let (node, clock) = (self.node.clone(), self.ctx.clock.clone());
        let was_settled = self.candidates;
        let conn = self.connection().await?;
        let renewed_at = Instant::now();
        renew(conn, &node).await?;
        let before = clock.now();
        let mut standing = read(conn, &node, before).await?;
        if standing.generation.is_none() {
            standing.generation = Some(begin_generation(conn).await?);
        }
        let candidates = if was_settled.0 == standing.candidates {
            was_settled
        } else {
            (standing.candidates, Instant::now())
        };
        if standing.is_taken {
            standing.mine.clear();
        } else {
            if standing.is_due {
                renew_shared(conn).await?;
            }
            share_out(conn, &node, candidates, &mut standing).await?;
        }
        self.candidates = candidates;
        self.held = Held(Arc::new(Inner {
            epochs: standing.mine,
            until: Some(renewed_at + LEASE - LEASE_MARGIN),
            offset: standing.offset,
            generation: standing.generation,
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
) -> Result<Standing, sqlx::Error> {
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
    let half = TimeDelta::from_std(asked.elapsed() / 2).unwrap_or_default();
    Ok(Standing {
        offset: row.now - (before + half),
        candidates: row.candidates,
        is_taken: row.is_taken,
        is_due: row.is_due,
        generation: row.generation,
        mine: row.mine.into_iter().zip(row.epochs).collect(),
        free: row.free.into_iter().zip(row.free_epochs).collect(),
    })
}

/// The history of the database is another than before: what nodes remember may not have happened.
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
    tracing::info!(generation = %id, "a new history of the database has begun");
    Ok(id)
}

/// Whoever is first renews for all; the others do not wait for its lock.
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

/// Claims free shards, or hands over those beyond this node's share.
async fn share_out(
    conn: &mut PgConnection,
    node: &str,
    (candidates, since): (i64, Instant),
    standing: &mut Standing,
) -> Result<(), sqlx::Error> {
    let nodes = usize::try_from(candidates.max(1)).expect("a few nodes");
    let share = usize::from(SHARDS.unsigned_abs()).div_ceil(nodes);
    let mine = standing.mine.len();
    if mine < share && !standing.free.is_empty() {
        let mut wanted: Vec<_> = std::mem::take(&mut standing.free).into_iter().collect();
        // Nodes begin at different shards, so that they rarely want the same.
        let start = node.bytes().map(usize::from).sum::<usize>() % wanted.len();
        wanted.rotate_left(start);
        wanted.truncate(share - mine);
        standing.mine.extend(claim(conn, node, &wanted).await?);
    } else if mine > share && since.elapsed() >= SETTLED_AFTER {
        let extra: Vec<i16> = standing.mine.keys().copied().skip(share).collect();
        sqlx::query!(
            "update admission.shards set owner = null where owner = $1 and shard = any($2)",
            node,
            &extra,
        )
        .execute(conn)
        .await?;
        standing.mine.retain(|shard, _| !extra.contains(shard));
    }
    Ok(())
}

/// Takes shards whose epoch is still the one that was read: of two nodes that claim a shard, one
/// gets it.
async fn claim(
    conn: &mut PgConnection,
    node: &str,
    wanted: &[(i16, i64)],
) -> Result<Vec<(i16, i64)>, sqlx::Error> {
    let (shards, epochs): (Vec<i16>, Vec<i64>) = wanted.iter().copied().unzip();
    let mut tx = conn.begin().await?;
    let epoch = sqlx::query_scalar!(
        "update admission.leader set epoch = epoch + 1 where node = $1 returning epoch",
        SHARED,
    )
    .fetch_optional(&mut *tx)
    .await?;
    // A node that knows no shards was quicker.
    let Some(epoch) = epoch else {
        return Ok(Vec::new());
    };
    let claimed = sqlx::query_scalar!(
        "update admission.shards s set owner = $1, epoch = $2
         from unnest($3::smallint[], $4::bigint[]) as u (shard, epoch)
         where s.shard = u.shard and s.epoch = u.epoch
         returning s.shard",
        node,
        epoch,
        &shards,
        &epochs,
    )
    .fetch_all(&mut *tx)
    .await?;
    tx.commit().await?;
    tracing::info!(node, epoch, shards = claimed.len(), "took over shards");
    Ok(claimed.into_iter().map(|shard| (shard, epoch)).collect())
}
