//! Sign-ins under guessing and load: backoff, quotas per network, load shedding.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use chrono::TimeDelta;
use serde_json::{Value, json};

use crate::app::{Answer, App, PASSWORD};

const HOME: &str = "192.0.2.7";
const ELSEWHERE: &str = "198.51.100.9";

fn ada(password: &str) -> Value {
    json!({"email": "ada@example.org", "password": password})
}

/// An address in the `n`th network.
fn network(n: u32) -> String {
    format!("203.0.{n}.1")
}

async fn sign_in(app: &App, address: &str, password: &str) -> Answer {
    let client = app.nobody_at(address);
    client.post("/api/sessions", &ada(password)).await
}

/// Guesses wrongly, each time from another network, until refused; returns the number of guesses
/// that were checked.
async fn guess_until_refused(app: &App) -> u32 {
    for n in 0..20 {
        let answer = sign_in(app, &network(n), "wrong horse battery").await;
        if answer.status == 429 {
            assert!(answer.headers.contains_key("retry-after"));
            answer.problem("rate-limited");
            return n;
        }
        answer.problem("wrong-credentials");
    }
    panic!("twenty guesses were tried");
}

#[tokio::test]
async fn guesses_from_many_networks_are_delayed_and_the_owner_is_not() {
    let app = App::start().await;
    let home = app.nobody_at(HOME);
    home.post("/api/accounts", &ada(PASSWORD)).await.expect(201);
    assert_eq!(guess_until_refused(&app).await, 10);
    // The network of the sign-up is known to the account; elsewhere the backoff applies.
    sign_in(&app, "192.0.2.99", PASSWORD).await.expect(201);
    sign_in(&app, ELSEWHERE, PASSWORD)
        .await
        .problem("rate-limited");
    app.clock.advance(TimeDelta::seconds(30));
    sign_in(&app, ELSEWHERE, PASSWORD).await.expect(201);
    // The right password resets the count.
    assert_eq!(guess_until_refused(&app).await, 10);
    app.finish().await;
}

#[tokio::test]
async fn each_further_guess_waits_twice_as_long_up_to_a_quarter_of_an_hour() {
    let app = App::start().await;
    // No account has this address: the backoff must not reveal which addresses have one.
    guess_until_refused(&app).await;
    for seconds in [30, 60, 120, 240, 480, 900, 900] {
        app.clock.advance(TimeDelta::seconds(seconds - 1));
        let early = sign_in(&app, HOME, "wrong horse battery").await;
        assert_eq!(early.headers["retry-after"], "1");
        early.problem("rate-limited");
        app.clock.advance(TimeDelta::seconds(1));
        sign_in(&app, HOME, "wrong horse battery")
            .await
            .problem("wrong-credentials");
    }
    app.finish().await;
}

#[tokio::test]
async fn guesses_at_once_are_not_more_than_guesses_one_after_the_other() {
    // None is shed, however slowly a busy machine hashes.
    let app = App::start_with(1_000.0, |config| {
        config.password_wait = Duration::from_secs(600);
    })
    .await;
    let guesses = (0..40).map(async |n| {
        let answer = sign_in(&app, &network(n), "wrong horse battery").await;
        answer.status.as_u16()
    });
    let answers = futures_util::future::join_all(guesses).await;
    let tried = answers.iter().filter(|status| **status == 401).count();
    assert_eq!(tried, 10, "{answers:?}");
    app.finish().await;
}

#[tokio::test]
async fn a_sign_in_that_is_shed_uses_up_no_guess() {
    // Sheds every sign-in that would wait for another.
    let app = App::start_with(1_000.0, |config| config.password_wait = Duration::ZERO).await;
    let guess = async |n| {
        let answer = sign_in(&app, &network(n), "wrong horse battery").await;
        answer.status.as_u16()
    };
    let at_once = futures_util::future::join_all((0..60).map(guess)).await;
    assert!(at_once.contains(&503), "none was shed: {at_once:?}");
    let mut answers = at_once;
    for n in 0.. {
        if answers.contains(&429) {
            break;
        }
        answers.push(guess(n).await);
    }
    let checked = answers.iter().filter(|status| **status == 401).count();
    assert_eq!(checked, 10, "{answers:?}");
    app.finish().await;
}

#[tokio::test]
async fn one_guess_at_each_of_many_accounts_is_limited_by_network_on_every_node() {
    // A tenth of the limit: 30 wrong guesses.
    let app = App::start_with_limits(0.1).await;
    let home = app.nobody_at(HOME);
    home.post("/api/accounts", &ada(PASSWORD)).await.expect(201);
    let mut refused = 0;
    for n in 0..35 {
        let guess = json!({"email": format!("nobody{n}@example.org"), "password": PASSWORD});
        let neighbour = app.nobody_at(&format!("192.0.2.{}", 100 + n));
        let answer = neighbour.post("/api/sessions", &guess).await;
        refused += u32::from(answer.status == 429);
    }
    assert_eq!(refused, 5);
    // Accounts known to that network, and those elsewhere, can still sign in.
    sign_in(&app, HOME, PASSWORD).await.expect(201);
    sign_in(&app, ELSEWHERE, PASSWORD).await.expect(201);
    app.finish().await;
}

/// Signs up four people, each at an address of their own or all at one, where a hundredth of the
/// limits applies; returns the statuses.
async fn four_sign_ups(address: impl Fn(u32) -> String) -> Vec<u16> {
    let app = App::start_with_limits(0.01).await;
    let mut statuses = Vec::new();
    for n in 1..=4 {
        let person = app.nobody_at(&address(n));
        let body = json!({"email": format!("p{n}@example.org"), "password": PASSWORD});
        let answer = person.post("/api/accounts", &body).await;
        statuses.push(answer.status.as_u16());
    }
    app.finish().await;
    statuses
}

#[tokio::test]
async fn sign_ups_of_one_network_are_limited_whichever_address_they_use() {
    let statuses = four_sign_ups(|n| format!("2001:db8:1:{n}::1")).await;
    assert_eq!(statuses, [201, 201, 201, 429]);
}

#[tokio::test]
async fn as_many_sign_up_behind_one_address_as_in_one_network() {
    let statuses = four_sign_ups(|_| HOME.to_owned()).await;
    assert_eq!(statuses, [201, 201, 201, 429]);
}

/// Inserts `count` accounts with the password [`PASSWORD`].
async fn crowd(app: &App, count: i32) {
    app.nobody()
        .post("/api/accounts", &ada(PASSWORD))
        .await
        .expect(201);
    sqlx::query(
        "insert into box_office.accounts (email, password_hash, created_at, updated_at)
         select 'crowd' || n || '@example.org', password_hash, created_at, updated_at
         from box_office.accounts, generate_series(1, $1) n
         where email = 'ada@example.org'",
    )
    .bind(count)
    .execute(&app.test.ctx.db)
    .await
    .unwrap();
}

/// Signs in, honouring `Retry-After`, and returns the time taken. Any other refusal fails the test,
/// 429 among them.
async fn arrive(app: &App, n: usize) -> Duration {
    let begun = Instant::now();
    let body = json!({"email": format!("crowd{n}@example.org"), "password": PASSWORD});
    loop {
        let answer = app.nobody_at(HOME).post("/api/sessions", &body).await;
        match answer.status.as_u16() {
            201 => return begun.elapsed(),
            503 => {
                let wait = answer.headers["retry-after"].to_str().unwrap();
                // The client honours Retry-After; this is no wait for a condition.
                tokio::time::sleep(Duration::from_secs(wait.parse().unwrap())).await;
            }
            other => panic!("{other}: {}", answer.body),
        }
    }
}

/// `ONSALE_FULL_SIZE=1` takes the crowd, and the latency, that the program is to hold. Without it
/// the crowd is small and the bars are those who overtake, which an unoptimised build on a busy
/// machine does not change.
fn is_full_size() -> bool {
    std::env::var_os("ONSALE_FULL_SIZE").is_some()
}

/// The 99th percentile.
fn p99<T: Copy + Ord>(mut all: Vec<T>) -> T {
    all.sort_unstable();
    all[(all.len() * 99).div_ceil(100) - 1]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_behind_one_address_signs_in_while_others_and_staff_go_on() {
    let people = if is_full_size() { 1_000 } else { 150 };
    let app = App::start_with_limits(1.0).await;
    crowd(&app, i32::try_from(people).unwrap()).await;
    let (arrived, is_over) = (AtomicUsize::new(0), AtomicBool::new(false));
    let reads = async {
        let mut pace = tokio::time::interval(Duration::from_millis(20));
        let (mut times, mut overtook) = (Vec::new(), Vec::new());
        while !is_over.load(Ordering::Relaxed) {
            pace.tick().await;
            let (begun, before) = (Instant::now(), arrived.load(Ordering::Relaxed));
            app.nobody().get("/api/events").await.expect(200);
            times.push(begun.elapsed());
            overtook.push(arrived.load(Ordering::Relaxed) - before);
        }
        (p99(times), p99(overtook))
    };
    let staff = async {
        let has_begun = async || arrived.load(Ordering::Relaxed) > 0;
        platform::testing::eventually(Duration::from_secs(60), has_begun).await;
        let before = arrived.load(Ordering::Relaxed);
        let admin = json!({"email": "admin@example.org", "password": PASSWORD});
        app.nobody()
            .staff_post("/api/sessions", &admin)
            .await
            .expect(201);
        (before, arrived.load(Ordering::Relaxed))
    };
    let crowd = async {
        let arriving = (1..=people).map(async |n| {
            let took = arrive(&app, n).await;
            arrived.fetch_add(1, Ordering::Relaxed);
            took
        });
        let took = futures_util::future::join_all(arriving).await;
        is_over.store(true, Ordering::Relaxed);
        took.into_iter().max().unwrap()
    };
    let (crowd_took, (before, after), (read_took, overtook)) = tokio::join!(crowd, staff, reads);
    println!("{people} signed in within {crowd_took:?}, reads took {read_took:?} at p99");
    assert!(after < people, "there was no crowd");
    let overtook_staff = after - before;
    assert!(overtook_staff < people / 3, "{overtook_staff} of {people}");
    assert!(overtook < people / 10, "{overtook} of {people}");
    if is_full_size() {
        assert!(read_took < Duration::from_millis(50), "{read_took:?}");
    }
    app.finish().await;
}
