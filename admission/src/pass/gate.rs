//! Passes of a sale, in PostgreSQL. Whatever comes together shares one transaction, and nothing is
//! told before its commit: a repeat after any crash finds the pass that was given.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use chrono::{DateTime, Utc};
use domain::gate::{Gate, Turn};
use domain::sale::SaleSettings;
use domain::{AccountId, EventId, Place};
use platform::pg;
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use crate::store::gate::{self, Claimed, NewPass};

/// The passes of every sale.
#[derive(Debug, Clone)]
pub struct Passes {
    db: PgPool,
}

/// On what terms passes are given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// Most claims in any 60 s.
    pub rate_per_minute: u32,
    /// Most running passes.
    pub shopper_cap: u32,
    /// How long a pass lasts.
    pub pass_seconds: u32,
}

impl From<&SaleSettings> for Terms {
    fn from(sale: &SaleSettings) -> Self {
        Self {
            rate_per_minute: sale.rate_per_minute,
            shopper_cap: sale.shopper_cap,
            pass_seconds: sale.pass_seconds,
        }
    }
}

/// Who comes to claim: a place that was called, and whose it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Claimant {
    /// The place.
    pub place: Place,
    /// The account; negative for a visitor without one.
    pub account_id: AccountId,
}

/// A pass before it is signed. The same grant gives the same bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Grant {
    /// The place it was claimed with.
    pub place: Place,
    /// The pass's id.
    pub jti: Uuid,
    /// When it was issued, Unix seconds.
    pub iat: i64,
    /// When it ends, Unix seconds.
    pub exp: i64,
}

/// A pass that is refused although it has not run out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    /// The pass's id.
    pub jti: Uuid,
    /// When it runs out, Unix seconds.
    pub ends_at: i64,
}

/// What became of a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// The pass is given now.
    Granted(Grant),
    /// It was given before, and runs; perhaps with another place of the account.
    Repeated(Grant),
    /// It was given before, and has ended or was given back.
    Over,
    /// Another account has claimed with this place.
    Another,
    /// The rate or the cap is used up; come back after this long and keep the turn.
    Full(Duration),
}

impl Passes {
    /// The passes in `db`.
    #[must_use]
    pub fn new(db: PgPool) -> Self {
        Self { db }
    }

    /// Claims the passes of `claimants`, who were called and are in the order in which they came;
    /// what became of each, in that order. `at` is the time; without it, the database's, so that
    /// the clocks of nodes have no say in the rate.
    ///
    /// # Errors
    /// When PostgreSQL fails; passes may then be given, and a repeat returns them.
    pub async fn claim(
        &self,
        event_id: EventId,
        claimants: &[Claimant],
        terms: Terms,
        at: Option<DateTime<Utc>>,
    ) -> Result<Vec<Claim>, sqlx::Error> {
        pg::run_tx(&self.db, "claim_passes", |tx| {
            Box::pin(async move { claim(tx, event_id, claimants, terms, at).await })
        })
        .await
    }

    /// Ends the pass `jti`, whose slot is free at once; what every node is to refuse from now on,
    /// `None` when the pass was over already. `at` as for [`claim`](Self::claim).
    ///
    /// # Errors
    /// When PostgreSQL fails; it can be repeated.
    pub async fn give_back(
        &self,
        event_id: EventId,
        jti: Uuid,
        at: Option<DateTime<Utc>>,
    ) -> Result<Option<Refused>, sqlx::Error> {
        pg::run_tx(&self.db, "give_back_pass", |tx| {
            Box::pin(async move {
                let mut locked = gate::lock(tx, event_id).await?;
                let now = gate::tidy(tx, &mut locked, at).await?;
                let ended = gate::end(tx, &mut locked, jti, now).await?;
                gate::save(tx, locked).await?;
                Ok(ended)
            })
        })
        .await
    }

    /// Ends the running passes of each account that were issued at its time or before; what every
    /// node is to refuse from now on.
    ///
    /// # Errors
    /// When PostgreSQL fails; it can be repeated.
    pub(crate) async fn revoke(
        &self,
        event_id: EventId,
        accounts: &[(AccountId, DateTime<Utc>)],
    ) -> Result<Vec<Refused>, sqlx::Error> {
        if accounts.is_empty() {
            return Ok(Vec::new());
        }
        pg::run_tx(&self.db, "revoke_passes", |tx| {
            Box::pin(async move {
                let mut locked = gate::lock(tx, event_id).await?;
                let now = gate::tidy(tx, &mut locked, None).await?;
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

    /// Ends the passes that ran out, of every sale where nobody claims meanwhile.
    ///
    /// # Errors
    /// When PostgreSQL fails; the next round goes on.
    pub(crate) async fn end_due(&self) -> Result<(), sqlx::Error> {
        for event_id in gate::due(&self.db).await? {
            self.end_run_out(event_id, None).await?;
        }
        Ok(())
    }

    /// Ends the passes of a sale that ran out. `at` as for [`claim`](Self::claim).
    ///
    /// # Errors
    /// When PostgreSQL fails; it can be repeated.
    pub async fn end_run_out(
        &self,
        event_id: EventId,
        at: Option<DateTime<Utc>>,
    ) -> Result<(), sqlx::Error> {
        pg::run_tx(&self.db, "end_passes", |tx| {
            Box::pin(async move {
                let mut locked = gate::lock(tx, event_id).await?;
                gate::tidy(tx, &mut locked, at).await?;
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
    terms: Terms,
    at: Option<DateTime<Utc>>,
) -> Result<Vec<Claim>, sqlx::Error> {
    let mut locked = gate::lock(tx, event_id).await?;
    let now = gate::tidy(tx, &mut locked, at).await?;
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

/// The claims that earlier ones decide. A place has one pass, and it is of the account that claimed
/// it; an account has one running pass, whatever the number of its places.
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

/// Those that are still to be decided, each place and each account once: the first of them asks.
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

/// Turns what was decided into passes, and places that are to come back.
fn settle(
    asking: &[Claimant],
    turns: &[Turn],
    terms: Terms,
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

/// The outcome of each. A claimant that did not ask itself has the outcome of the one that asked
/// for the same account, or, of another account, came too late for the place.
fn in_order(claimants: &[Claimant], outcomes: &HashMap<Claimant, Claim>) -> Vec<Claim> {
    let by_account: HashMap<AccountId, Claim> = outcomes
        .iter()
        .map(|(claimant, outcome)| (claimant.account_id, *outcome))
        .collect();
    let mut told = HashSet::new();
    claimants
        .iter()
        .map(|claimant| {
            let own = outcomes.get(claimant);
            let own = own.or_else(|| by_account.get(&claimant.account_id));
            match own {
                Some(Claim::Granted(grant)) if !told.insert(grant.jti) => Claim::Repeated(*grant),
                Some(outcome) => *outcome,
                None => Claim::Another,
            }
        })
        .collect()
}
