//! The opening of a sale at which everybody arrives signed out, from behind a few addresses: each
//! person signs in, or signs up, and joins, retrying as the pages do.
//!
//! Limits per address must stop robots and no person, so one response with status 429 is one too
//! many.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::Instant;

use crate::buyer::{Api, ApiError, Buyer, Endpoints, Funnel, FunnelCounts, Latencies, Plan};

/// The people who arrive.
#[derive(Debug, Clone, Copy)]
pub struct Crowd {
    /// Number of people.
    pub people: u32,
    /// Number of addresses that they share, each in a network of its own; at most 256.
    pub addresses: u8,
    /// Share of people without an account, in per cent.
    pub new_per_cent: u32,
}

/// Result of an opening.
#[derive(Debug)]
pub struct Outcome {
    /// Number of people who signed in or up and of those who joined, and of 429s.
    pub counts: FunnelCounts,
    /// Latencies, each from a person's first attempt.
    pub latencies: Latencies,
    /// Errors of the people who did not get a place.
    pub failures: Vec<ApiError>,
    /// From the opening to the last place.
    pub elapsed: Duration,
}

/// Client of one person, by number; 0 is the model of the accounts that are added.
fn person(
    crowd: Crowd,
    client: &reqwest::Client,
    endpoints: &Endpoints,
    event_id: i64,
    funnel: &Arc<Funnel>,
    number: u32,
) -> Buyer {
    let network = u8::try_from(number % u32::from(crowd.addresses.max(1))).unwrap_or(0);
    let address = if number == 0 {
        IpAddr::from([198, 19, 0, 1])
    } else {
        IpAddr::from([198, 18, network, 1])
    };
    let api = Api::new(client.clone(), endpoints.clone(), address);
    let email = email(number);
    Buyer::new(api, Arc::clone(funnel), event_id, email, 1, Plan::NoShow)
}

fn email(number: u32) -> String {
    format!("arrival{number}@example.org")
}

impl Crowd {
    fn is_new(self, number: u32) -> bool {
        // Multiplicative hashing spreads them over the addresses.
        (number.wrapping_mul(2_654_435_761) >> 16) % 100 < self.new_per_cent
    }

    /// Creates the accounts of the people who have one: the first by signing up, the others as
    /// copies of its row, since hashing each password would take longer than the opening.
    ///
    /// # Errors
    /// When the sign-up or the database fails.
    #[cfg(feature = "tool")]
    pub async fn add_accounts(
        self,
        client: &reqwest::Client,
        endpoints: &Endpoints,
        db: &sqlx::PgPool,
    ) -> anyhow::Result<()> {
        let funnel = Arc::default();
        person(self, client, endpoints, 0, &funnel, 0)
            .sign_up()
            .await?;
        let emails: Vec<String> = (1..=self.people)
            .filter(|number| !self.is_new(*number))
            .map(email)
            .collect();
        sqlx::query(
            "insert into box_office.accounts
                 (email, password_hash, name, roles, created_at, updated_at, email_confirmed_at)
             select copy.email, model.password_hash, model.name, model.roles, now(), now(), now()
             from box_office.accounts model, unnest($1::text[]) as copy (email)
             where model.email = $2",
        )
        .bind(emails)
        .bind(email(0))
        .execute(db)
        .await?;
        Ok(())
    }

    /// Lets everybody arrive at once at the sale of `event_id`, which must be joinable, and waits
    /// until each has a place or has failed.
    pub async fn arrive(
        self,
        client: &reqwest::Client,
        endpoints: &Endpoints,
        event_id: i64,
    ) -> Outcome {
        let funnel: Arc<Funnel> = Arc::default();
        let opened = Instant::now();
        let arrivals = (1..=self.people).map(|number| {
            let person = person(self, client, endpoints, event_id, &funnel, number);
            async move {
                let session = if self.is_new(number) {
                    person.sign_up().await?
                } else {
                    person.sign_in().await?
                };
                person.join(&session).await
            }
        });
        let arrived = join_all(arrivals).await;
        Outcome {
            counts: funnel.counts(),
            latencies: funnel.latencies(),
            failures: arrived.into_iter().filter_map(Result::err).collect(),
            elapsed: opened.elapsed(),
        }
    }
}
