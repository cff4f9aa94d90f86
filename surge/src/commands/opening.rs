//! `surge opening`: everybody arrives signed out when the sale opens, from behind a few addresses.
//! Measures sign-ins and joins at the usual limits, and fails if one person gets a 429.

use anyhow::ensure;
use secrecy::ExposeSecret as _;
use sqlx::postgres::PgPoolOptions;
use surge::buyer::Endpoints;
use surge::opening::{Crowd, Outcome};
use url::Url;

use super::subject::{self, Subject};
use super::{machine, say};

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    subject: subject::Args,
    /// People who arrive at once
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    people: u32,
    /// Addresses that they share, each in a network of its own
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u8).range(1..))]
    addresses: u8,
    /// Share of people who have no account and sign up, in per cent
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(..=100))]
    new_per_cent: u32,
    /// Print the row of docs/BENCHMARKS.md at the end
    #[arg(long)]
    markdown: bool,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    say(format_args!(
        "{}; the people, Onsale and the servers share them",
        machine::class()
    ));
    platform::service::raise_open_files()?;
    let limits = vec![("ONSALE_LIMITS_SCALE", "1".to_owned())];
    let subject = Subject::start_own(&args.subject, limits).await?;
    let crowd = Crowd {
        people: args.people,
        addresses: args.addresses,
        new_per_cent: args.new_per_cent,
    };
    let client = reqwest::Client::builder().no_proxy().build()?;
    let endpoints = Endpoints::at(&Url::parse(&format!("http://{}", subject.address))?);
    let database = subject.database_url()?.expose_secret();
    let db = PgPoolOptions::new()
        .max_connections(1)
        .connect(database)
        .await?;
    crowd.add_accounts(&client, &endpoints, &db).await?;
    db.close().await;
    let outcome = Box::pin(crowd.arrive(&client, &endpoints, subject.event_id.0)).await;
    subject.tear_down().await?;

    print_figures(&args, &outcome);
    for failure in outcome.failures.iter().take(3) {
        say(format_args!("a person got no place: {failure}"));
    }
    let (failed, limited) = (outcome.failures.len(), outcome.counts.limited);
    ensure!(failed == 0, "{failed} people got no place");
    ensure!(limited == 0, "{limited} requests were answered 429");
    Ok(())
}

fn print_figures(args: &Args, outcome: &Outcome) {
    let Outcome {
        counts, latencies, ..
    } = outcome;
    let seconds = outcome.elapsed.as_secs_f64();
    say(format_args!(
        "{} people behind {} addresses: {} signed in, {} signed up and {} joined within \
         {seconds:.1} s; {} responses 429; {} retries; sign-in p50 {} ms, p99 {} ms; join p99 {} ms",
        args.people,
        args.addresses,
        counts.signed_in,
        counts.signed_up,
        counts.joined,
        counts.limited,
        counts.retries,
        latencies.sign_in.p50_ms,
        latencies.sign_in.p99_ms,
        latencies.join.p99_ms,
    ));
    if args.markdown {
        say(format_args!(
            "| {} | {} | {} | {seconds:.1} s | {} / {} ms | {} ms |",
            args.people,
            args.addresses,
            counts.limited,
            latencies.sign_in.p50_ms,
            latencies.sign_in.p99_ms,
            latencies.join.p99_ms,
        ));
    }
}
