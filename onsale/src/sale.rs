//! `onsale sale`: the operator's commands. They go through the staff API, like the console, so
//! that every change is checked and logged there.

use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use reqwest::Method;
use reqwest::header::RETRY_AFTER;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use url::{Host, Url};

use crate::say;

const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Which staff API, and as whom.
#[derive(Args)]
pub(crate) struct SaleArgs {
    /// The internal listener of box-office
    #[arg(
        long,
        env = "ONSALE_INTERNAL_URL",
        default_value = "http://127.0.0.1:8081",
        global = true
    )]
    url: Url,
    /// The address a member of staff signs in with
    #[arg(long, env = "ONSALE_STAFF_EMAIL", default_value = "", global = true)]
    email: String,
    /// The password
    #[arg(
        long,
        env = "ONSALE_STAFF_PASSWORD",
        hide_env_values = true,
        default_value = "",
        global = true
    )]
    password: SecretString,
    #[command(subcommand)]
    command: SaleCommand,
}

#[derive(Subcommand)]
enum SaleCommand {
    /// Show the settings and live figures
    Show {
        /// The event
        event: i64,
        /// Show them again every second
        #[arg(long)]
        watch: bool,
    },
    /// Set how many places are called per minute
    Rate {
        /// The event
        event: i64,
        /// Places per minute
        per_minute: u32,
    },
    /// Set how many people may hold a pass at once
    Cap {
        /// The event
        event: i64,
        /// People
        shoppers: u32,
    },
    /// Call nobody until resumed
    Pause {
        /// The event
        event: i64,
    },
    /// Call again
    Resume {
        /// The event
        event: i64,
    },
    /// End the sale
    Close {
        /// The event
        event: i64,
    },
    /// Take back the end of the sale
    Reopen {
        /// The event
        event: i64,
    },
    /// Ask for proof of work before joining, against robots
    Challenge {
        /// The event
        event: i64,
        /// Whether it is asked for
        switch: Switch,
    },
    /// Let visitors without an account join, for a queue that guards another site
    Anonymous {
        /// The event, which sells nothing here
        event: i64,
        /// Whether they may
        switch: Switch,
    },
    /// Announce where public entropy for the lobby's lottery will come from, before the lobby opens
    EntropySource {
        /// The event
        event: i64,
        /// Where from, exactly enough that everyone reads the same; empty for none
        source: String,
    },
    /// Tell what the announced source of entropy showed, once the opening time has come
    Entropy {
        /// The event
        event: i64,
        /// What it showed; it can't be changed
        value: String,
    },
    /// Take back the pass of an account; it is refused everywhere within a second
    Revoke {
        /// The event
        event: i64,
        /// The account
        account: i64,
    },
    /// Tell everyone who waits
    Message {
        /// The event
        event: i64,
        /// What to tell; empty takes the message down
        text: String,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Switch {
    On,
    Off,
}

/// Runs one command.
pub(crate) async fn run(args: SaleArgs) -> anyhow::Result<()> {
    let staff = Staff::sign_in(&args).await?;
    let (event, change) = match args.command {
        SaleCommand::Show { event, watch } => return show(&staff, event, watch).await,
        SaleCommand::Rate { event, per_minute } => {
            (event, json!({ "rate_per_minute": per_minute }))
        }
        SaleCommand::Cap { event, shoppers } => (event, json!({ "shopper_cap": shoppers })),
        SaleCommand::Pause { event } => (event, json!({ "paused": true })),
        SaleCommand::Resume { event } => (event, json!({ "paused": false })),
        SaleCommand::Close { event } => (event, json!({ "closed": true })),
        SaleCommand::Reopen { event } => (event, json!({ "closed": false })),
        SaleCommand::Challenge { event, switch } => {
            (event, json!({ "challenge": switch == Switch::On }))
        }
        SaleCommand::Anonymous { event, switch } => {
            (event, json!({ "anonymous": switch == Switch::On }))
        }
        SaleCommand::EntropySource { event, source } => {
            (event, json!({ "entropy_source": source }))
        }
        SaleCommand::Entropy { event, value } => (event, json!({ "entropy": value })),
        SaleCommand::Revoke { event, account } => return revoke(&staff, event, account).await,
        SaleCommand::Message { event, text } => (event, json!({ "message": text })),
    };
    let answer = staff
        .call(Method::PUT, &format!("/api/sales/{event}"), Some(&change))
        .await?;
    say(settings_line(&answer["sale"]));
    Ok(())
}

async fn show(staff: &Staff, event: i64, watch: bool) -> anyhow::Result<()> {
    loop {
        let answer = staff
            .call(Method::GET, &format!("/api/sales/{event}"), None)
            .await?;
        say(settings_line(&answer["sale"]));
        say(live_line(&answer["live"]));
        if let Some(line) = lottery_line(&answer["sale"], &answer["live"]["lottery"]) {
            say(line);
        }
        if !watch {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

async fn revoke(staff: &Staff, event: i64, account: i64) -> anyhow::Result<()> {
    let path = format!("/api/sales/{event}/passes/{account}");
    staff.call(Method::DELETE, &path, None).await?;
    say(format_args!(
        "sale {event}: the pass of account {account} is taken back"
    ));
    Ok(())
}

fn settings_line(sale: &Value) -> String {
    format!(
        "sale {}: {}, {} a minute, cap {}, version {}",
        sale["event_id"],
        sale["state"].as_str().unwrap_or("unknown"),
        sale["rate_per_minute"],
        sale["shopper_cap"],
        sale["version"]
    )
}

fn live_line(live: &Value) -> String {
    if live["seq"].is_null() {
        return "no queue yet".to_owned();
    }
    let left = &live["stock"]["available"];
    let left = left.as_i64().map(|left| left.to_string());
    format!(
        "joined {}, called {}, waiting {}, shopping {}, claimed in the last minute {}, seats left {}",
        live["joined"],
        live["cursor"],
        live["waiting"],
        live["shopping"],
        live["claimed_last_minute"],
        left.as_deref().unwrap_or("unknown")
    )
}

/// How far the lottery of the lobby has come; `None` when there is none yet.
fn lottery_line(sale: &Value, lottery: &Value) -> Option<String> {
    let commitment = lottery["commitment"]
        .as_str()
        .filter(|text| !text.is_empty())?;
    let source = sale["entropy_source"].as_str().unwrap_or_default();
    let awaits_entropy = !source.is_empty() && sale["entropy"] == "";
    Some(if !lottery["drawn"].is_null() {
        format!("lottery of {} drawn", lottery["drawn"]["lobby"])
    } else if !lottery["fixed"].is_null() && awaits_entropy {
        format!(
            "lottery of {}: opens when you tell the entropy from: {source}",
            lottery["fixed"]["lobby"]
        )
    } else {
        format!("lottery committed to {commitment}")
    })
}

/// A signed-in member of staff.
struct Staff {
    client: reqwest::Client,
    url: Url,
    access_token: String,
}

/// Whether it is on this machine, where no proxy is asked.
fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

impl Staff {
    async fn sign_in(args: &SaleArgs) -> anyhow::Result<Self> {
        if args.email.is_empty() {
            bail!(
                "say who you are: set ONSALE_STAFF_EMAIL and ONSALE_STAFF_PASSWORD, or --email and --password"
            );
        }
        let mut client = reqwest::Client::builder().timeout(REQUEST_TIMEOUT);
        if is_loopback(&args.url) {
            client = client.no_proxy();
        }
        let client = client.build()?;
        let mut staff = Self {
            client,
            url: args.url.clone(),
            access_token: String::new(),
        };
        let body = json!({ "email": args.email, "password": args.password.expose_secret() });
        let answer = staff
            .call(Method::POST, "/api/sessions", Some(&body))
            .await?;
        let token = answer["session"]["access_token"].as_str();
        staff.access_token = token.context("the answer has no access token")?.to_owned();
        Ok(staff)
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> anyhow::Result<Value> {
        let url = self.url.join(path)?;
        let mut request = self.client.request(method, url.clone());
        if !self.access_token.is_empty() {
            request = request.bearer_auth(&self.access_token);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request
            .send()
            .await
            .with_context(|| format!("can't reach {url}"))?;
        let status = response.status();
        let wait = response.headers().get(RETRY_AFTER).cloned();
        let answer: Value = response
            .json()
            .await
            .with_context(|| format!("{url} answered {status}"))?;
        if !status.is_success() {
            let wait = wait.as_ref().and_then(|wait| wait.to_str().ok());
            bail!(
                "{}: {}{}",
                answer["title"].as_str().unwrap_or("refused"),
                answer["detail"].as_str().unwrap_or_default(),
                wait.map(|seconds| format!(" Try again in {seconds} s."))
                    .unwrap_or_default()
            );
        }
        Ok(answer)
    }
}
