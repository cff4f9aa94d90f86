//! SQL of lotteries: `admission.draws` and `admission.draw_entries`.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use domain::lottery::{EntriesDigest, Entry, commitment};
use domain::queue::{Drawn, Fixed, Lottery};
use domain::sale::SaleSettings;
use domain::{AccountId, EventId, Number, hex};
use platform::pg;
use platform::tokens::KeyRing;
use sqlx::{PgConnection, PgPool};

/// Numbers read, and pseudonyms stored, per row and statement.
pub(super) const CHUNK: i64 = 16_384;
/// The pseudonym of a number that nobody held.
pub(super) const NOBODY: Entry = Entry([0; Entry::BYTES]);

/// A drawn lottery, including its seed.
#[derive(Debug)]
pub(super) struct Draw {
    pub(super) seed: Vec<u8>,
    pub(super) commitment: Vec<u8>,
    pub(super) committed_at: DateTime<Utc>,
    pub(super) lobby: i64,
    pub(super) entries: i64,
    pub(super) entries_digest: Vec<u8>,
    pub(super) fixed_at: DateTime<Utc>,
    pub(super) entropy_source: String,
    pub(super) entropy: String,
    pub(super) drawn_at: DateTime<Utc>,
}

/// Returns the public state of the lotteries of `sales`, without those that have no seed yet.
pub(super) async fn get_all(
    db: &PgPool,
    sales: &[&SaleSettings],
) -> Result<HashMap<EventId, Lottery>, sqlx::Error> {
    let announced: HashMap<i64, &SaleSettings> =
        sales.iter().map(|sale| (sale.event_id.0, *sale)).collect();
    let ids: Vec<i64> = announced.keys().copied().collect();
    let rows = sqlx::query!(
        r#"select event_id as "event_id!", commitment as "commitment!", lobby, entries_digest,
                  entropy_source, entropy, seed, entries_key
           from admission.public_draws where event_id = any($1)"#,
        &ids,
    )
    .fetch_all(db)
    .await?;
    let lotteries = rows.into_iter().map(|row| {
        let fixed = row.lobby.zip(row.entries_digest.as_deref());
        let fixed = fixed.map(|(lobby, digest)| Fixed {
            lobby,
            entries_digest: hex::encode(digest),
        });
        let drawn = fixed.clone().zip(row.seed.zip(row.entropy));
        let source = announced
            .get(&row.event_id)
            .map(|sale| &sale.entropy_source);
        let lottery = Lottery {
            commitment: hex::encode(&row.commitment),
            entries_key: row.entries_key.unwrap_or_default(),
            entropy_source: row
                .entropy_source
                .or_else(|| source.cloned())
                .unwrap_or_default(),
            drawn: drawn.map(|(fixed, (seed, entropy))| Drawn {
                lobby: fixed.lobby,
                seed: hex::encode(&seed),
                entropy,
                entries_digest: fixed.entries_digest,
            }),
            fixed,
        };
        (EventId(row.event_id), lottery)
    });
    Ok(lotteries.collect())
}

/// Inserts seeds of sales that have none; existing ones are unchanged.
pub(super) async fn insert_all(
    db: &PgPool,
    seeds: &[(EventId, [u8; 32])],
    entries_key: &str,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    let ids: Vec<i64> = seeds.iter().map(|(event_id, _)| event_id.0).collect();
    let commitments: Vec<Vec<u8>> = seeds
        .iter()
        .map(|(_, seed)| commitment(seed).to_vec())
        .collect();
    let seeds: Vec<Vec<u8>> = seeds.iter().map(|(_, seed)| seed.to_vec()).collect();
    sqlx::query!(
        "insert into admission.draws (event_id, seed, commitment, entries_key, committed_at)
         select event_id, seed, commitment, $4, $5
         from unnest($1::bigint[], $2::bytea[], $3::bytea[]) as u (event_id, seed, commitment)
         on conflict (event_id) do nothing",
        &ids,
        &seeds,
        &commitments,
        entries_key,
        now,
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Replaces the seed of a lottery that was fixed without entries.
pub(super) async fn renew(
    db: &PgPool,
    event_id: EventId,
    seed: &[u8; 32],
    entries_key: &str,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "update admission.draws
         set seed = $2, commitment = $3, entries_key = $4, committed_at = $5, lobby = null,
             entries = null, entries_digest = null, entropy_source = null, fixed_at = null,
             entropy = null, drawn_at = null
         where event_id = $1 and lobby = 0",
        event_id.0,
        &seed[..],
        &commitment(seed)[..],
        entries_key,
        now,
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Copies the holders of the numbers `1..=lobby`, as pseudonyms with their digest, unless that was
/// done before. A million take about two seconds, during which only the lottery's row is locked.
pub(super) async fn fix(
    db: &PgPool,
    keys: &KeyRing,
    sale: &SaleSettings,
    lobby: i64,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    pg::run_tx(db, "fix lottery", |tx| {
        Box::pin(async move {
            // One snapshot: nobody who changes numbers meanwhile is seen twice, or not at all.
            sqlx::query("set transaction isolation level repeatable read")
                .execute(&mut **tx)
                .await?;
            let draw = sqlx::query!(
                r#"select fixed_at is not null as "is_fixed!", entries_key
                   from admission.draws where event_id = $1 for update"#,
                sale.event_id.0,
            );
            let draw = draw.fetch_one(&mut **tx).await?;
            if draw.is_fixed {
                return Ok(());
            }
            let key = known_key(keys, sale.event_id, draw.entries_key.as_deref());
            let naming = Naming { keys, key };
            let (entries, digest) = copy_entries(tx, &naming, sale.event_id, lobby).await?;
            sqlx::query!(
                "update admission.draws
                 set lobby = $2, entries = $3, entries_digest = $4, entropy_source = $5,
                     fixed_at = $6, entries_key = $7
                 where event_id = $1 and fixed_at is null",
                sale.event_id.0,
                lobby,
                entries,
                &digest[..],
                sale.entropy_source,
                now,
                key,
            )
            .execute(&mut **tx)
            .await?;
            Ok(())
        })
    })
    .await
}

/// Returns the announced pseudonym key. A sale can't wait for a secret that was dropped too early:
/// then the current key is used, and tokens issued before prove nothing.
fn known_key<'a>(keys: &'a KeyRing, event_id: EventId, promised: Option<&'a str>) -> &'a str {
    match promised {
        Some(key) if keys.lottery_entry(key, event_id, AccountId(0)).is_some() => key,
        Some(_) => {
            tracing::error!(%event_id, "lottery pseudonym secret was dropped before the draw");
            keys.entries_key()
        }
        None => keys.entries_key(),
    }
}

/// Derives pseudonyms with one key.
struct Naming<'a> {
    keys: &'a KeyRing,
    key: &'a str,
}

impl Naming<'_> {
    fn entry(&self, event_id: EventId, account_id: AccountId) -> Entry {
        let entry = self.keys.lottery_entry(self.key, event_id, account_id);
        entry.expect("the key is one of the ring's")
    }
}

async fn copy_entries(
    conn: &mut PgConnection,
    naming: &Naming<'_>,
    event_id: EventId,
    lobby: i64,
) -> Result<(i64, [u8; 32]), sqlx::Error> {
    let mut digest = EntriesDigest::new(event_id, lobby);
    let mut entries = 0;
    let mut first = 1;
    while first <= lobby {
        let last = lobby.min(first + CHUNK - 1);
        let held = sqlx::query!(
            r#"select coalesce(array_agg(number order by number), '{}') as "numbers!",
                      coalesce(array_agg(account_id order by number), '{}') as "accounts!"
               from waiting_room.public_numbers
               where event_id = $1 and number between $2 and $3"#,
            event_id.0,
            first,
            last,
        )
        .fetch_one(&mut *conn)
        .await?;
        let mut names = Vec::new();
        let mut next = first;
        for (number, account) in held.numbers.into_iter().zip(held.accounts) {
            for _ in next..number {
                names.extend(NOBODY.0);
            }
            let entry = naming.entry(event_id, AccountId(account));
            digest.add(Number(number), entry);
            names.extend(entry.0);
            next = number + 1;
            entries += 1;
        }
        if !names.is_empty() {
            insert_names(conn, event_id, first, &names).await?;
        }
        first = last + 1;
    }
    Ok((entries, digest.finish()))
}

async fn insert_names(
    conn: &mut PgConnection,
    event_id: EventId,
    first: i64,
    names: &[u8],
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "insert into admission.draw_entries (event_id, first, names) values ($1, $2, $3)",
        event_id.0,
        first,
        names,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Draws with the entropy of `sale`, if the entries are fixed and not drawn yet.
pub(super) async fn draw(
    db: &PgPool,
    sale: &SaleSettings,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "update admission.draws set entropy = $2, drawn_at = $3
         where event_id = $1 and fixed_at is not null and drawn_at is null",
        sale.event_id.0,
        sale.entropy,
        now,
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Returns the draw of a sale: `None` without a lottery, `Some(None)` before the draw.
pub(super) async fn drawn(
    db: &PgPool,
    event_id: EventId,
) -> Result<Option<Option<Draw>>, sqlx::Error> {
    let draw = sqlx::query_as!(
        Draw,
        r#"select seed, commitment, committed_at, lobby as "lobby!", entries as "entries!",
                  entries_digest as "entries_digest!", fixed_at as "fixed_at!",
                  entropy_source as "entropy_source!", entropy as "entropy!",
                  drawn_at as "drawn_at!"
           from admission.draws where event_id = $1 and drawn_at is not null"#,
        event_id.0,
    )
    .fetch_optional(db)
    .await?;
    if draw.is_some() {
        return Ok(Some(draw));
    }
    let is_known = sqlx::query_scalar!(
        r#"select exists (select from admission.draws where event_id = $1) as "is_known!""#,
        event_id.0,
    )
    .fetch_one(db)
    .await?;
    Ok(is_known.then_some(None))
}

/// Returns the pseudonyms of [`CHUNK`] numbers from `first` on, 16 bytes each; trailing numbers
/// that nobody held are left out.
pub(super) async fn names(
    db: &PgPool,
    event_id: EventId,
    first: i64,
) -> Result<Vec<u8>, sqlx::Error> {
    let names = sqlx::query_scalar!(
        "select names from admission.draw_entries where event_id = $1 and first = $2",
        event_id.0,
        first,
    );
    Ok(names.fetch_optional(db).await?.unwrap_or_default())
}
