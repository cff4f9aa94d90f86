//! Claims against PostgreSQL, without a release loop and in simulated time.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use admission::pass::{Claim, Claimant, Grant, PassTerms, Passes};
use chrono::{DateTime, TimeDelta, Utc};
use domain::{AccountId, EventId, Place};
use futures_util::StreamExt as _;
use futures_util::future::join_all;
use futures_util::stream;
use platform::testing::{Proxy, TestApp};
use sqlx::PgPool;
use url::Url;

const EVENT: EventId = EventId(1);
/// Connections are cut this often, for two seconds.
const CUT_PERIOD: Duration = Duration::from_millis(8);
const CUTS: u32 = 250;

struct Door {
    app: TestApp,
    passes: Passes,
    terms: PassTerms,
    now: DateTime<Utc>,
}

impl Door {
    async fn new(rate_per_minute: u32, shopper_cap: u32) -> Self {
        let app = TestApp::start().await;
        Self {
            passes: Passes::new(app.ctx.db.clone()),
            terms: PassTerms {
                rate_per_minute,
                shopper_cap,
                pass_seconds: 600,
            },
            now: DateTime::from_timestamp(1_800_000_000, 0).unwrap(),
            app,
        }
    }

    async fn claim_all(&self, places: impl IntoIterator<Item = i64>) -> Vec<Claim> {
        let claimants: Vec<Claimant> = places.into_iter().map(claimant).collect();
        let at = Some(self.now);
        self.passes
            .claim(EVENT, &claimants, self.terms, at)
            .await
            .unwrap()
    }

    async fn claim(&self, place: i64) -> Claim {
        self.claim_all([place]).await[0]
    }

    async fn shopping(&self) -> i32 {
        sqlx::query_scalar("select shopping from admission.gates")
            .fetch_one(&self.app.ctx.db)
            .await
            .unwrap()
    }
}

fn claimant(place: i64) -> Claimant {
    Claimant {
        place: Place(place),
        account_id: AccountId(1_000 + place),
    }
}

fn granted(claims: &[Claim]) -> usize {
    claims
        .iter()
        .filter(|claim| matches!(claim, Claim::Granted(_)))
        .count()
}

#[tokio::test]
async fn claims_never_exceed_the_rate_in_any_minute() {
    let mut door = Door::new(60, 100_000).await;
    let mut times = Vec::new();
    let mut place = 1;
    while times.len() < 200 {
        match door.claim(place).await {
            Claim::Granted(_) => {
                times.push(door.now);
                place += 1;
                door.now += TimeDelta::milliseconds(170);
            }
            Claim::Full(wait) if wait < Duration::from_secs(5) => {
                // A millisecond early there is no room, and then there is.
                door.now += TimeDelta::from_std(wait).unwrap() - TimeDelta::milliseconds(1);
                assert!(matches!(door.claim(place).await, Claim::Full(_)));
                door.now += TimeDelta::milliseconds(1);
                assert!(matches!(door.claim(place).await, Claim::Granted(_)));
                times.push(door.now);
                place += 1;
            }
            Claim::Full(wait) => door.now += TimeDelta::from_std(wait).unwrap(),
            other => panic!("{other:?}"),
        }
    }
    for (first, time) in times.iter().enumerate() {
        let end = *time + TimeDelta::seconds(60);
        let within = times[first..].iter().take_while(|claim| **claim < end);
        let within = within.count();
        assert!(within <= 60, "{within} claims in the minute from {time}");
    }
    // Three full minutes and 20 claims: little is lost to counting in quarters of a second.
    let lasted = times[times.len() - 1] - times[0];
    assert!(lasted < TimeDelta::seconds(186), "{lasted}");
    door.app.finish().await;
}

#[tokio::test]
async fn everybody_who_was_called_comes_at_once_and_the_rate_holds() {
    let mut door = Door::new(60, 100_000).await;
    let all = door.claim_all(1..=500).await;
    assert_eq!(granted(&all), 60);
    assert!(
        all[..60]
            .iter()
            .all(|claim| matches!(claim, Claim::Granted(_)))
    );
    assert!(
        all[60..]
            .iter()
            .all(|claim| matches!(claim, Claim::Full(_)))
    );
    // After an hour without claims a minute holds no more than any other.
    door.now += TimeDelta::hours(1);
    assert_eq!(granted(&door.claim_all(501..=1_000).await), 60);
    door.app.finish().await;
}

#[tokio::test]
async fn a_place_has_one_pass_whatever_is_repeated() {
    let mut door = Door::new(600, 100).await;
    let together = door.claim_all([7, 7, 7]).await;
    let Claim::Granted(grant) = together[0] else {
        panic!("{together:?}")
    };
    assert_eq!(together[1..], [Claim::Repeated(grant); 2]);
    door.now += TimeDelta::seconds(599);
    assert_eq!(door.claim(7).await, Claim::Repeated(grant));
    assert_eq!(door.shopping().await, 1);
    door.app.finish().await;
}

#[tokio::test]
async fn a_place_that_one_account_claimed_is_refused_to_every_other() {
    let mut door = Door::new(600, 100).await;
    let claim = async |door: &Door, claimants: &[(i64, i64)]| {
        let claimants: Vec<Claimant> = claimants
            .iter()
            .map(|(place, account)| Claimant {
                place: Place(*place),
                account_id: AccountId(*account),
            })
            .collect();
        let at = Some(door.now);
        let claims = door.passes.claim(EVENT, &claimants, door.terms, at);
        claims.await.unwrap()
    };
    // Two at once, and one later, even after the pass has ended.
    let together = claim(&door, &[(7, 1), (7, 2)]).await;
    assert!(matches!(together[..], [Claim::Granted(_), Claim::Another]));
    assert_eq!(claim(&door, &[(7, 3)]).await, [Claim::Another]);
    door.now += TimeDelta::seconds(700);
    assert_eq!(
        claim(&door, &[(7, 1), (7, 3)]).await,
        [Claim::Over, Claim::Another]
    );
    door.app.finish().await;
}

#[tokio::test]
async fn an_account_has_one_running_pass_whatever_the_number_of_its_places() {
    let mut door = Door::new(600, 100).await;
    let of = |place| Claimant {
        place: Place(place),
        account_id: AccountId(1),
    };
    let claim = async |door: &Door, claimants: &[Claimant]| {
        let at = Some(door.now);
        let claims = door.passes.claim(EVENT, claimants, door.terms, at);
        claims.await.unwrap()
    };
    let together = claim(&door, &[of(7), of(9)]).await;
    let Claim::Granted(grant) = together[0] else {
        panic!("{together:?}")
    };
    assert_eq!(together[1], Claim::Repeated(grant));
    door.now += TimeDelta::seconds(500);
    assert_eq!(claim(&door, &[of(12)]).await, [Claim::Repeated(grant)]);
    assert_eq!((door.shopping().await, grant.place), (1, Place(7)));
    door.now += TimeDelta::seconds(200);
    let next = claim(&door, &[of(12)]).await;
    assert!(matches!(next[0], Claim::Granted(next) if next.jti != grant.jti));
    door.app.finish().await;
}

#[tokio::test]
async fn a_pass_that_runs_out_gives_its_slot_back_once() {
    let mut door = Door::new(600, 1).await;
    assert_eq!(granted(&door.claim_all([1, 2]).await), 1);
    // Until no clock accepts the pass, five seconds of leeway included.
    door.now += TimeDelta::seconds(604);
    assert_eq!(granted(&door.claim_all([3, 4]).await), 0);
    assert_eq!(door.shopping().await, 1);
    door.now += TimeDelta::seconds(1);
    for _ in 0..2 {
        door.passes.expire(EVENT, Some(door.now)).await.unwrap();
        assert_eq!(door.shopping().await, 0);
    }
    assert_eq!(door.claim(1).await, Claim::Over);
    assert_eq!(granted(&door.claim_all([3, 4]).await), 1);
    let changes: i64 = sqlx::query_scalar("select changes from admission.gates")
        .fetch_one(&door.app.ctx.db)
        .await
        .unwrap();
    assert_eq!(changes, 3, "two claims and one end");
    door.app.finish().await;
}

#[tokio::test]
async fn two_leave_and_two_come_in_time_after_time() {
    let mut door = Door::new(600, 2).await;
    let mut entered = Vec::new();
    for round in 0..4 {
        entered.push(granted(
            &door.claim_all(round * 10 + 1..=round * 10 + 9).await,
        ));
        door.now += TimeDelta::seconds(605);
    }
    assert_eq!(entered, [2, 2, 2, 2]);
    door.app.finish().await;
}

#[tokio::test]
async fn a_slot_goes_to_who_came_first_unless_they_stay_away() {
    let mut door = Door::new(600, 1).await;
    assert_eq!(granted(&door.claim_all([50, 40, 30]).await), 1);
    door.now += TimeDelta::seconds(600);
    // 40 and 30 lapsed long ago, and claim again in the opposite order.
    door.claim_all([30, 40]).await;
    door.now += TimeDelta::seconds(5);
    assert!(matches!(door.claim(40).await, Claim::Full(_)));
    assert!(matches!(door.claim(10).await, Claim::Full(_)));
    assert!(matches!(door.claim(30).await, Claim::Granted(_)));
    door.app.finish().await;
}

/// Claims under way at once: as many as the connections of two nodes carry, since a claim waits for
/// a connection no longer than a request may take.
const AT_ONCE: usize = 16;

/// Claims from two nodes at once, each place several times.
async fn crowd(nodes: [&Passes; 2], terms: PassTerms, places: i64) -> Vec<(Place, Claim)> {
    let one = async |node: &Passes, place: i64| {
        let claims = node.claim(EVENT, &[claimant(place)], terms, None).await;
        (Place(place), claims.unwrap()[0])
    };
    let claims = (0..places * 3).map(|n| {
        let [first, second] = nodes;
        one(if n % 2 == 0 { first } else { second }, n % places + 1)
    });
    stream::iter(claims)
        .buffer_unordered(AT_ONCE)
        .collect()
        .await
}

#[tokio::test]
async fn two_nodes_together_hold_the_cap_and_give_a_place_one_pass() {
    let door = Door::new(10_000, 25).await;
    let other = door.app.another_node().await;
    let other_passes = Passes::new(other.db.clone());
    let heard = crowd([&door.passes, &other_passes], door.terms, 60).await;
    let mut passes: HashMap<Place, HashSet<Grant>> = HashMap::new();
    for (place, claim) in &heard {
        if let Claim::Granted(grant) | Claim::Repeated(grant) = claim {
            passes.entry(*place).or_default().insert(*grant);
        }
    }
    assert_eq!(passes.len(), 25);
    assert!(passes.values().all(|of_place| of_place.len() == 1));
    assert_eq!(door.shopping().await, 25);
    door.app.finish().await;
}

/// Claims until a pass was returned 40 times; returns the distinct grants.
async fn insist(passes: &Passes, terms: PassTerms, place: i64) -> HashSet<Grant> {
    let mut heard = HashSet::new();
    let mut answers = 0;
    while answers < 40 {
        let claims = passes.claim(EVENT, &[claimant(place)], terms, None).await;
        if let Ok([Claim::Granted(grant) | Claim::Repeated(grant)]) = claims.as_deref() {
            heard.insert(*grant);
            answers += 1;
        }
        tokio::task::yield_now().await;
    }
    heard
}

#[tokio::test]
async fn connections_cut_for_two_seconds_in_mid_claim_give_nobody_a_second_pass() {
    let url: Url = std::env::var("ONSALE_DATABASE_URL")
        .unwrap()
        .parse()
        .unwrap();
    let (host, port) = (url.host_str().unwrap(), url.port().unwrap_or(5432));
    let proxy = Arc::new(Proxy::to(format!("{host}:{port}")).await);
    let door = Door::new(10_000, 1_000).await;
    let through = through(&door.app.ctx.config.database_url, &proxy);
    let db = platform::pg::connect(&through, 8, "cut").await.unwrap();
    let passes = Passes::new(db.clone());
    let cutting = {
        let proxy = Arc::clone(&proxy);
        let mut ticks = tokio::time::interval(CUT_PERIOD);
        tokio::spawn(async move {
            for _ in 0..CUTS {
                ticks.tick().await;
                proxy.cut();
            }
        })
    };
    let crowd = (1..=30).map(|place| insist(&passes, door.terms, place));
    let heard = join_all(crowd).await;
    cutting.await.unwrap();
    assert!(heard.iter().all(|grants| grants.len() == 1), "{heard:?}");
    assert_eq!(count_claims(&door.app.ctx.db).await, 30);
    assert_eq!(door.shopping().await, 30);
    db.close().await;
    door.app.finish().await;
}

fn through(url: &secrecy::SecretString, proxy: &Proxy) -> String {
    let mut url: Url = secrecy::ExposeSecret::expose_secret(url).parse().unwrap();
    url.set_host(Some("127.0.0.1")).unwrap();
    url.set_port(Some(proxy.address().port())).unwrap();
    url.into()
}

async fn count_claims(db: &PgPool) -> i64 {
    sqlx::query_scalar("select count(*) from admission.claims")
        .fetch_one(db)
        .await
        .unwrap()
}
