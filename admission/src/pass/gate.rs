//! Issues and ends passes in PostgreSQL. A batch of claims shares one transaction, and no response
//! is sent before it commits: a repeat after any crash returns the pass that was issued.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use chrono::{DateTime, Utc};
use domain::gate::{Gate, Turn};
use domain::sale::SaleSettings;
use domain::{AccountId, EventId, Place};
use platform::pg;
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use crate::store::gate::{self, Claimed, Grant, NewPass, RevokedPass};

/// Repository of the passes of every sale.
#[derive(Debug, Clone)]
pub struct Passes {
    db: PgPool,
}

/// The sale's limits on passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PassTerms {
    /// Maximum number of claims in any 60 s.
    pub rate_per_minute: u32,
    /// Maximum number of running passes.
    pub shopper_cap: u32,
    /// Lifetime of a pass.
    pub pass_seconds: u32,
}

impl From<&SaleSettings> for PassTerms {
    fn from(sale: &SaleSettings) -> Self {
        Self {
            rate_per_minute: sale.rate_per_minute,
            shopper_cap: sale.shopper_cap,
            pass_seconds: sale.pass_seconds,
        }
    }
}

/// A called place and the account that claims it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Claimant {
    /// The called place.
    pub place: Place,
    /// The account; negative for a visitor without an account.
    pub account_id: AccountId,
}

/// Outcome of a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// A new pass was issued.
    Granted(Grant),
    /// The account's running pass, perhaps issued for another place of the account.
    Repeated(Grant),
    /// The place's pass has ended.
    Over,
    /// Another account has claimed this place.
    Another,
    /// The rate or the cap is exhausted. The place is in the ready line, and retries after this
    /// long.
    Full(Duration),
}

impl Passes {
    /// Passes stored in `db`.
    #[must_use]
    pub fn new(db: PgPool) -> Self {
        Self { db }
    }

    /// Claims passes for `claimants`, which were called and are in order of arrival. Returns the
    /// outcome of each, in that order. `at` defaults to the database's time, so that the clocks of
    /// nodes do not affect the rate.
    ///
    /// # Errors
    /// When PostgreSQL fails; passes may have been issued, and a repeat returns them.
    pub async fn claim(
        &self,
        event_id: EventId,
        claimants: &[Claimant],
        terms: PassTerms,
        at: Option<DateTime<Utc>>,
    ) -> Result<Vec<Claim>, sqlx::Error> {
        pg::run_tx(&self.db, "claim_passes", |tx| {
            Box::pin(async move { claim(tx, event_id, claimants, terms, at).await })
        })
        .await
    }

    /// Ends the pass `jti`, which frees its slot at once, and returns it for the revocation list;
    /// `None` when it had ended before. `at` as for [`claim`](Self::claim).
    ///
    /// # Errors
    /// When PostgreSQL fails; safe to retry.
    pub async fn give_back(
        &self,
        event_id: EventId,
        jti: Uuid,
        at: Option<DateTime<Utc>>,
    ) -> Result<Option<RevokedPass>, sqlx::Error> {
        pg::run_tx(&self.db, "give_back_pass", |tx| {
            Box::pin(async move {
                let mut locked = gate::lock(tx, event_id).await?;
                let now = gate::expire_due(tx, &mut locked, at).await?;
                let ended = gate::end(tx, &mut locked, jti, now).await?;
                gate::save(tx, locked).await?;
                Ok(ended)
            })
        })
        .await
    }

    /// Ends each account's running passes that were issued up to the given time, and returns them
    /// for the revocation list.
    ///
    /// # Errors
    /// When PostgreSQL fails; safe to retry.
    pub(crate) async fn revoke(
        &self,
        event_id: EventId,
        accounts: &[(AccountId, DateTime<Utc>)],
    ) -> Result<Vec<RevokedPass>, sqlx::Error> {
        if accounts.is_empty() {
            return Ok(Vec::new());
        }
        pg::run_tx(&self.db, "revoke_passes", |tx| {
            Box::pin(async move {
                let mut locked = gate::lock(tx, event_id).await?;
                let now = gate::expire_due(tx, &mut locked, None).await?;
                let mut ended = Vec::new();
                for jti in gate::running_of(tx, event_id, accounts).await? {
                    ended.extend(gate::end(tx, &mut locked, jti, now).await?);
                }
                gate::save(tx, locked).await?;
                Ok(ended)
            })
        })
        .await
    }

    /// Ends expired passes of every sale. Claims do so for their own sale; this covers sales
    /// without any.
    ///
    /// # Errors
    /// When PostgreSQL fails; the next sweep continues.
    pub(crate) async fn expire_due(&self) -> Result<(), sqlx::Error> {
        for event_id in gate::due(&self.db).await? {
            self.expire(event_id, None).await?;
        }
        Ok(())
    }

    /// Ends the expired passes of a sale. `at` as for [`claim`](Self::claim).
    ///
    /// # Errors
    /// When PostgreSQL fails; safe to retry.
    pub async fn expire(
        &self,
        event_id: EventId,
        at: Option<DateTime<Utc>>,
    ) -> Result<(), sqlx::Error> {
        pg::run_tx(&self.db, "end_passes", |tx| {
            Box::pin(async move {
                let mut locked = gate::lock(tx, event_id).await?;
                gate::expire_due(tx, &mut locked, at).await?;
                gate::save(tx, locked).await
            })
        })
        .await
    }
}

async fn claim(
    tx: &mut PgConnection,
    event_id: EventId,
    claimants: &[Claimant],
    terms: PassTerms,
    at: Option<DateTime<Utc>>,
) -> Result<Vec<Claim>, sqlx::Error> {
    let mut locked = gate::lock(tx, event_id).await?;
    let now = gate::expire_due(tx, &mut locked, at).await?;
    let places: Vec<i64> = claimants.iter().map(|claimant| claimant.place.0).collect();
    let accounts: Vec<i64> = claimants.iter().map(|one| one.account_id.0).collect();
    let claimed = gate::claimed(tx, event_id, &places, &accounts).await?;
    let mut outcomes = decided_before(claimants, &claimed);
    let asking = asking(claimants, &outcomes);
    if !asking.is_empty() {
        let window = gate::window(tx, event_id, now).await?;
        let ready = gate::ready(tx, event_id).await?;
        let decided = Gate {
            now,
            rate_per_minute: terms.rate_per_minute,
            shopper_cap: terms.shopper_cap,
            window: &window,
            shopping: u32::try_from(locked.shopping).unwrap_or(0),
            ready: &ready,
        };
        let places: Vec<Place> = asking.iter().map(|claimant| claimant.place).collect();
        let turns = decided.decide(&places);
        let (passes, waiting) = settle(&asking, &turns, terms, now, &mut outcomes);
        gate::write(tx, &mut locked, now, &passes, &waiting).await?;
    }
    gate::save(tx, locked).await?;
    Ok(in_order(claimants, &outcomes))
}

/// Returns the outcomes that stored claims determine. A place has at most one pass, which belongs
/// to the account that claimed it; an account has at most one running pass, however many places it
/// has.
fn decided_before(claimants: &[Claimant], claimed: &[Claimed]) -> HashMap<Claimant, Claim> {
    let by_place: HashMap<Place, &Claimed> =
        claimed.iter().map(|one| (one.grant.place, one)).collect();
    let running: HashMap<AccountId, Grant> = claimed
        .iter()
        .filter(|one| !one.is_over)
        .map(|one| (one.account_id, one.grant))
        .collect();
    let decide = |claimant: &Claimant| {
        let of_place = by_place.get(&claimant.place);
        let is_other = of_place.is_some_and(|one| one.account_id != claimant.account_id);
        match (running.get(&claimant.account_id), of_place) {
            _ if is_other => Some(Claim::Another),
            (Some(grant), _) => Some(Claim::Repeated(*grant)),
            (None, Some(_)) => Some(Claim::Over),
            (None, None) => None,
        }
    };
    claimants
        .iter()
        .filter_map(|claimant| Some((*claimant, decide(claimant)?)))
        .collect()
}

/// Returns the claimants still to be decided, deduplicated by place and by account: the first
/// stands for the others.
fn asking(claimants: &[Claimant], outcomes: &HashMap<Claimant, Claim>) -> Vec<Claimant> {
    let (mut places, mut accounts) = (HashSet::new(), HashSet::new());
    let is_asking = |claimant: &&Claimant| {
        !outcomes.contains_key(claimant)
            && !places.contains(&claimant.place)
            && accounts.insert(claimant.account_id)
            && places.insert(claimant.place)
    };
    claimants.iter().filter(is_asking).copied().collect()
}

/// Turns decisions into new passes and ready-line entries, and records their outcomes.
fn settle(
    asking: &[Claimant],
    turns: &[Turn],
    terms: PassTerms,
    now: DateTime<Utc>,
    outcomes: &mut HashMap<Claimant, Claim>,
) -> (Vec<NewPass>, Vec<i64>) {
    let (mut passes, mut waiting) = (Vec::new(), Vec::new());
    for (claimant, turn) in asking.iter().zip(turns) {
        let outcome = match turn {
            Turn::Pass => {
                let grant = Grant {
                    place: claimant.place,
                    jti: Uuid::new_v4(),
                    iat: now.timestamp(),
                    exp: now.timestamp() + i64::from(terms.pass_seconds),
                };
                passes.push(NewPass {
                    account_id: claimant.account_id,
                    grant,
                });
                Claim::Granted(grant)
            }
            Turn::Wait(wait) => {
                waiting.push(claimant.place.0);
                Claim::Full(*wait)
            }
        };
        outcomes.insert(*claimant, outcome);
    }
    (passes, waiting)
}

/// Returns each claimant's outcome. A deduplicated claimant shares the outcome of its account's
/// first claim; one of another account lost the place to it.
fn in_order(claimants: &[Claimant], outcomes: &HashMap<Claimant, Claim>) -> Vec<Claim> {
    let by_account: HashMap<AccountId, Claim> = outcomes
        .iter()
        .map(|(claimant, outcome)| (claimant.account_id, *outcome))
        .collect();
    let mut answered = HashSet::new();
    claimants
        .iter()
        .map(|claimant| {
            let own = outcomes.get(claimant);
            let own = own.or_else(|| by_account.get(&claimant.account_id));
            match own {
                Some(Claim::Granted(grant)) if !answered.insert(grant.jti) => {
                    Claim::Repeated(*grant)
                }
                Some(outcome) => *outcome,
                None => Claim::Another,
            }
        })
        .collect()
}
