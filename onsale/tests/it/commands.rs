//! The operator's commands as a person runs them: their output and exit status.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use chrono::TimeDelta;
use domain::clock::{Clock as _, SystemClock};
use platform::testing::eventually;
use reqwest::Method;
use serde_json::{Value, json};
use surge::buyer::{Fate, Funnel, PlanMix};

use crate::system::{System, free_address};

/// Exit status of a usage error.
const USAGE: i32 = 64;
/// Exit status of a failure.
const FAILED: i32 = 1;
const SOON: Duration = Duration::from_secs(60);

/// An address without a listener: that of `discard`, which no process of a test takes.
const NOWHERE: &str = "127.0.0.1:9";
/// Guesses at once of a crowd.
const CROWD: usize = 40;

fn said(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// The exit status and standard error.
fn complaint(output: &Output) -> (Option<i32>, String) {
    let complaint = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(said(output), "", "{complaint}");
    (output.status.code(), complaint)
}

impl System {
    /// Runs a command that must succeed, and returns its output.
    fn says(&self, arguments: &[&str]) -> String {
        let output = self.try_onsale(arguments, &[]).unwrap();
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {complaint}");
        said(&output)
    }

    /// Runs a command that must fail with this status and these words on standard error.
    fn refuses(&self, arguments: &[&str], settings: &[(&str, &str)], code: i32, words: &str) {
        let output = self.try_onsale(arguments, settings).unwrap();
        let (status, complaint) = complaint(&output);
        assert_eq!(status, Some(code), "{arguments:?}: {complaint}");
        assert!(complaint.contains(words), "{arguments:?}: {complaint}");
        assert!(!complaint.contains("panicked"), "{complaint}");
    }

    async fn sale(&self, event: i64) -> Value {
        let path = format!("/api/sales/{event}");
        let answer = self.staff(Method::GET, &path, &json!({})).await.unwrap();
        answer["sale"].clone()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sale_is_steered_by_commands() {
    let mut system = System::start(&["all"]).await.unwrap();
    let event = system.event(10, 60, json!({})).await.unwrap();
    let id = event.to_string();
    let id = id.as_str();

    let shown = system.says(&["sale", "show", id]);
    let lines: Vec<_> = shown.lines().collect();
    let settings = format!("sale {id}: open, 60 a minute, cap 1000, version ");
    assert!(lines[0].starts_with(&settings), "{shown}");
    assert_eq!(
        lines[1],
        "joined 0, called 0, waiting 0, shopping 0, claimed in the last minute 0, seats left 10"
    );
    for (command, words) in [
        (vec!["rate", id, "77"], "open, 77 a minute, cap 1000"),
        (vec!["rate", id, "240", "--yes"], "open, 240 a minute"),
        (vec!["rate", id, "77"], "open, 77 a minute"),
        (vec!["cap", id, "5"], "open, 77 a minute, cap 5"),
        (vec!["pause", id], "paused, 77 a minute"),
        (vec!["resume", id], "open, 77 a minute"),
        (vec!["close", id], "closed, 77 a minute"),
        (vec!["reopen", id], "open, 77 a minute"),
    ] {
        let said = system.says(&[&["sale"], &*command].concat());
        assert!(said.contains(words), "{command:?}: {said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
    for (command, field, value) in [
        (vec!["challenge", id, "on"], "challenge", json!(true)),
        (vec!["challenge", id, "off"], "challenge", json!(false)),
        (vec!["anonymous", id, "on"], "anonymous", json!(true)),
        (vec!["anonymous", id, "off"], "anonymous", json!(false)),
        (
            vec!["message", id, "Soon there"],
            "message",
            json!("Soon there"),
        ),
        (vec!["message", id, ""], "message", json!("")),
    ] {
        system.says(&[&["sale"], &*command].concat());
        assert_eq!(system.sale(event).await[field], value, "{command:?}");
    }
    let said = system.says(&["sale", "revoke", id, "7"]);
    assert_eq!(
        said,
        format!("sale {id}: the pass of account 7 is revoked\n")
    );
    for (rate, words) in [
        ("0", "use `sale pause`"),
        ("232", "more than 3 times the current 77"),
    ] {
        system.refuses(&["sale", "rate", id, rate], &[], USAGE, words);
    }
    watched(&mut system, id).await;
    system.finish().await.unwrap();
}

/// The lines of a running command, each within [`SOON`]. Dropping it kills the command.
pub(crate) struct Watching {
    pub(crate) child: Child,
    pub(crate) lines: mpsc::Receiver<String>,
}

impl Watching {
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let (line, lines) = mpsc::channel();
        std::thread::spawn(move || {
            out.lines()
                .map_while(Result::ok)
                .all(|read| line.send(read).is_ok())
        });
        Self { child, lines }
    }

    pub(crate) fn until(&self, words: &str) {
        let deadline = Instant::now() + SOON;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left);
            if line.expect("it goes on").contains(words) {
                return;
            }
        }
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

/// Asserts that a watch shows changes, and outlives a restart of the server and the end of its
/// session.
async fn watched(system: &mut System, event: &str) {
    let mut command = system.staff_command();
    command.args(["sale", "show", event, "--watch"]);
    let watching = Watching::start(command);
    watching.until("77 a minute");
    system.says(&["sale", "rate", event, "78"]);
    watching.until("78 a minute");
    system.kill("all").unwrap();
    system.restart("all").await.unwrap();
    system.says(&["sale", "rate", event, "79"]);
    watching.until("79 a minute");

    // Signed with another secret, the watch's token is refused: 401.
    system.kill("all").unwrap();
    system.set("ONSALE_SECRET", "0".repeat(64));
    system.restart("all").await.unwrap();
    system.says(&["sale", "rate", event, "80"]);
    watching.until("80 a minute");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_has_seen_enough_ends_a_watch() {
    let system = System::start(&["all"]).await.unwrap();
    let event = system.event(10, 60, json!({})).await.unwrap().to_string();
    let mut command = system.staff_command();
    command.args(["sale", "show", &event, "--watch"]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert!(line.starts_with("sale "), "{line}");
    // The reader is gone.
    eventually(SOON, async || child.try_wait().unwrap().is_some()).await;
    assert_eq!(child.wait().unwrap().code(), Some(0));
    system.finish().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_session_serves_many_commands_and_a_sale_is_paused_at_once_in_a_crowd() {
    let system = System::start(&["all"]).await.unwrap();
    let event = system.event(10, 60, json!({})).await.unwrap().to_string();
    let event = event.as_str();
    let is_crowd_there = Arc::new(AtomicBool::new(true));
    let answered = Arc::new(AtomicUsize::new(0));
    let guesses = system.public_url("all").join("/api/sessions").unwrap();
    let client = reqwest::Client::new();
    for n in 0..CROWD {
        let (client, guesses) = (client.clone(), guesses.clone());
        let (is_there, answered) = (Arc::clone(&is_crowd_there), Arc::clone(&answered));
        tokio::spawn(async move {
            while is_there.load(Ordering::Relaxed) {
                let whose = format!("crowd{n}.{}@test.example", rand::random::<u32>());
                let guess = json!({ "email": whose, "password": "a wrong password" });
                let request = client.post(guesses.clone()).json(&guess);
                let from = format!("10.{n}.{}.1", rand::random::<u8>());
                let answer = request.header("x-forwarded-for", from).send().await;
                let was_checked = answer.is_ok_and(|answer| answer.status() == 401);
                answered.fetch_add(usize::from(was_checked), Ordering::Relaxed);
            }
        });
    }
    eventually(SOON, async || answered.load(Ordering::Relaxed) > 0).await;
    let answered_during = |command: &str| {
        let before = answered.load(Ordering::Relaxed);
        system.says(&["sale", command, event]);
        answered.load(Ordering::Relaxed) - before
    };
    let overtook = answered_during("pause");
    // These sign in no more: they cost what a command costs on this machine.
    let others = (0..5).map(|_| answered_during("show")).max().unwrap();
    is_crowd_there.store(false, Ordering::Relaxed);
    // In the line of the crowd, the whole of it would be ahead.
    assert!(overtook < others + CROWD / 2, "{overtook}, else {others}");

    // Only its user can read the session, which is all that further commands need.
    let folder = Path::new(&system.setting("XDG_STATE_HOME")).join("onsale");
    let kept: Vec<_> = std::fs::read_dir(&folder).unwrap().collect();
    assert_eq!(kept.len(), 1, "{kept:?}");
    let file = kept[0].as_ref().unwrap();
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let passwordless = [("ONSALE_STAFF_PASSWORD", "")];
    for _ in 0..30 {
        let output = system
            .try_onsale(&["sale", "show", event], &passwordless)
            .unwrap();
        assert!(output.status.success(), "{output:?}");
    }
    // An expired access token is renewed.
    let mut session: Value = serde_json::from_slice(&std::fs::read(file.path()).unwrap()).unwrap();
    let before = session["refresh_token"].clone();
    session["expires_at"] = json!("2026-01-01T00:00:00Z");
    std::fs::write(file.path(), session.to_string()).unwrap();
    system.says(&["sale", "resume", event]);
    session = serde_json::from_slice(&std::fs::read(file.path()).unwrap()).unwrap();
    assert_ne!(session["refresh_token"], before);
    system.finish().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_becomes_an_administrator_and_stops_being_one() {
    let system = System::start(&["all"]).await.unwrap();
    let funnel = Arc::new(Funnel::default());
    let customer = system.buyers(1, 1, PlanMix::all_buy(), &funnel).remove(0);
    customer.sign_up().await.unwrap();
    let email = "b0@test.example";
    let said = system.says(&["account", "create-admin", email]);
    assert!(said.contains("its password stays as it was"), "{said}");
    let accounts = async || {
        let path = format!("/api/accounts?email={email}");
        let found = system.staff(Method::GET, &path, &json!({})).await.unwrap();
        found["accounts"][0]["roles"].clone()
    };
    assert_eq!(accounts().await, json!(["customer", "admin"]));
    system.says(&["account", "revoke", email, "admin"]);
    assert_eq!(accounts().await, json!(["customer"]));
    let wizard = ["account", "grant", email, "wizard"];
    system.refuses(&wizard, &[], USAGE, "take customer, organiser");
    let argument = [
        "account",
        "create-admin",
        "x@test.example",
        "--password",
        "x",
    ];
    system.refuses(&argument, &[], USAGE, "--password");
    system.finish().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lottery_of_a_lobby_is_announced_by_a_command() {
    let system = System::start(&["all"]).await.unwrap();
    let later = SystemClock.now() + TimeDelta::hours(1);
    let event = json!({
        "name": "Later", "date": "2030-01-01T19:00:00Z", "capacity": 5,
        "sale": { "opens_at": later, "lobby_seconds": 60 },
    });
    let made = system.staff(Method::POST, "/api/events", &event).await;
    let id = made.unwrap()["event"]["id"].to_string();
    let source = ["sale", "entropy-source", &id, "tonight's numbers"];
    let said = system.says(&source);
    let scheduled = format!("sale {id}: scheduled, ");
    assert!(said.starts_with(&scheduled), "{said}");
    eventually(SOON, async || {
        let shown = system.says(&["sale", "show", &id]);
        let last = shown.lines().last().unwrap_or_default();
        last.starts_with("lottery committed to ")
    })
    .await;
    let early = ["sale", "entropy", &id, "1 2 3"];
    system.refuses(&early, &[], FAILED, "onsale: ");
    system.finish().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_can_not_work_says_why_and_fails() {
    let mut system = System::start(&["all"]).await.unwrap();
    let id = system.event(10, 60, json!({})).await.unwrap().to_string();
    let id = id.as_str();
    for (command, words) in [
        (vec!["rate", id, "fast"], "invalid value 'fast'"),
        (vec!["rate", id, "-5"], "unexpected argument '-5'"),
        (vec!["rate", id], "<PER_MINUTE>"),
        (vec!["challenge", id, "maybe"], "[possible values: on, off]"),
        (vec!["show", "first"], "invalid value 'first'"),
        (vec!["opening", id], "unrecognized subcommand 'opening'"),
    ] {
        system.refuses(&[&["sale"], &*command].concat(), &[], USAGE, words);
    }
    let show = ["sale", "show", id];
    for (command, settings, words) in [
        (
            ["sale", "show", "999"],
            vec![],
            "There is no sale with this id",
        ),
        (
            show,
            vec![("ONSALE_STAFF_EMAIL", "")],
            "set ONSALE_STAFF_EMAIL and ONSALE_STAFF_PASSWORD",
        ),
        (
            show,
            vec![
                ("ONSALE_STAFF_PASSWORD", "a wrong password"),
                ("XDG_STATE_HOME", "/nonexistent"),
            ],
            "password",
        ),
    ] {
        system.refuses(&command, &settings, FAILED, words);
    }
    let rate = ["sale", "rate", id, "600001", "--yes"];
    system.refuses(&rate, &[], FAILED, "600000");

    // A customer may not control a sale.
    let funnel = Arc::new(Funnel::default());
    let customer = system.buyers(1, 1, PlanMix::all_buy(), &funnel).remove(0);
    customer.sign_up().await.unwrap();
    let as_customer = [
        ("ONSALE_STAFF_EMAIL", "b0@test.example"),
        ("ONSALE_STAFF_PASSWORD", "correct horse battery"),
    ];
    system.refuses(&show, &as_customer, FAILED, "role");

    let internal = system.internal_url();
    system.kill("all").unwrap();
    let unreachable = format!("can't reach {internal}api/sales/{id}");
    for command in [
        &show[..],
        &["sale", "pause", id],
        &["sale", "revoke", id, "7"],
    ] {
        system.refuses(command, &[], FAILED, &unreachable);
    }
    system.finish().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_money_is_compared_by_a_command() {
    // A proxy that is dead: no call inside the installation goes through it.
    let proxy = format!("http://{NOWHERE}");
    let proxies = ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"].map(|key| (key, proxy.clone()));
    let none = ("NO_PROXY", String::new());
    let system = System::start_with(&["all"], proxies.into_iter().chain([none]))
        .await
        .unwrap();
    let event = system.event(10, 6_000, json!({ "hold_seconds": 120 }));
    let event = event.await.unwrap();
    let funnel = Arc::new(Funnel::default());
    let buyer = system.buyers(event, 1, PlanMix::all_buy(), &funnel);
    let buyer = buyer.into_iter().next().unwrap();
    let session = buyer.sign_up().await.unwrap();
    let fate = buyer.shop(&session).await.unwrap();
    assert!(matches!(fate, Fate::Confirmed { .. }), "{fate:?}");
    system.audit().unwrap();

    let said = system.says(&["reconcile"]);
    assert_eq!(
        said,
        "1 PaymentIntents compared, 0 payments and refunds repaired\n"
    );

    // A charge of nobody we know at our Stripe account is a finding.
    let stripe = system.setting("ONSALE_STRIPE_URL");
    let stripe = stripe.trim_end_matches('/');
    let form = [
        ("amount", "4500"),
        ("currency", "eur"),
        ("capture_method", "manual"),
        ("confirm", "true"),
        ("payment_method", "pm_card_visa"),
        ("automatic_payment_methods[enabled]", "true"),
        ("automatic_payment_methods[allow_redirects]", "never"),
        (
            "metadata[booking_id]",
            "0199aaaa-0000-7000-8000-000000000000",
        ),
    ];
    let made = reqwest::Client::new()
        .post(format!("{stripe}/v1/payment_intents"))
        .bearer_auth(system.setting("STRIPE_SECRET_KEY"))
        .form(&form);
    let made: Value = made.send().await.unwrap().json().await.unwrap();
    let intent = made["id"].as_str().unwrap();
    let output = system.try_onsale(&["reconcile"], &[]).unwrap();
    let report = said_lines(&output, FAILED);
    assert!(
        report[0].starts_with("2 PaymentIntents compared, 0 "),
        "{report:?}"
    );
    let finding = format!("unknown_authorisation {intent}");
    assert!(report[1].contains(&finding), "{report:?}");

    let output = system.try_onsale(&["reconcile", "--json"], &[]).unwrap();
    assert_eq!(output.status.code(), Some(FAILED));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["compared"], 2, "{report}");
    assert_eq!(report["findings"][0]["subject"], intent, "{report}");

    system.finish().await.unwrap();
}

/// The output of a command that exited with this status, by line.
fn said_lines(output: &Output, code: i32) -> Vec<String> {
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{complaint}");
    said(output).lines().map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_comparison_that_can_not_be_made_says_why_and_fails() {
    let system = System::start(&["all"]).await.unwrap();
    let database = format!("postgres://nobody@{NOWHERE}/none");
    let stripe = format!("http://{NOWHERE}");
    for (arguments, settings, code, words) in [
        (
            vec!["reconcile", "--days", "366"],
            vec![],
            USAGE,
            "366 is not in 0..=365",
        ),
        (
            vec!["reconcile", "--days", "week"],
            vec![],
            USAGE,
            "invalid value 'week'",
        ),
        (
            vec!["reconcile"],
            vec![("STRIPE_SECRET_KEY", "")],
            USAGE,
            "STRIPE_SECRET_KEY must be set",
        ),
        (
            vec!["reconcile"],
            vec![("ONSALE_STRIPE_URL", &*stripe)],
            FAILED,
            "comparing with Stripe",
        ),
        (
            vec!["reconcile"],
            vec![("ONSALE_DATABASE_URL", &*database)],
            FAILED,
            "onsale: ",
        ),
    ] {
        system.refuses(&arguments, &settings, code, words);
    }
    system.finish().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shop_without_stripe_or_a_mail_server_starts_only_with_stand_ins_asked_for_by_name() {
    let unset = [
        ("STRIPE_SECRET_KEY", String::new()),
        ("ONSALE_SMTP_URL", String::new()),
        ("ONSALE_STAND_INS", "true".to_owned()),
    ];
    let system = System::start_with(&["all"], unset).await.unwrap();
    let page = reqwest::get(system.public_url("all")).await.unwrap();
    let page = page.text().await.unwrap();
    assert!(page.contains("no money moves, no mail leaves"), "{page}");
    let ready = reqwest::get(system.ops_url("all").join("readyz").unwrap());
    let ready = ready.await.unwrap().text().await.unwrap();
    for server in ["stripe", "mail"] {
        let shown = format!("\"{server}: a stand-in answers");
        assert!(ready.contains(&shown), "{ready}");
    }

    let by_name = ("ONSALE_STAND_INS", "false");
    let both = "STRIPE_SECRET_KEY and ONSALE_SMTP_URL must be set";
    system.refuses(&["all"], &[by_name], USAGE, both);
    let mail = ("ONSALE_SMTP_URL", "smtp://mail.test");
    let payments = "STRIPE_SECRET_KEY must be set. To try Onsale without";
    system.refuses(&["all"], &[by_name, mail], USAGE, payments);
    system.finish().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn services_apart_that_use_stand_ins_say_so() {
    let addresses = [(); 4].map(|()| free_address().to_string());
    let mut command = Command::new(env!("CARGO_BIN_EXE_onsale"));
    command.arg("stand-ins");
    for (flag, address) in ["--stripe", "--smtp", "--mails", "--sms"]
        .iter()
        .zip(&addresses)
    {
        command.args([flag, &**address]);
    }
    let stand_ins = Watching::start(command);
    let lines = std::iter::from_fn(|| stand_ins.lines.recv_timeout(SOON).ok());
    let settings = lines.map_while(|line| {
        let (key, value) = line.strip_prefix("export ")?.split_once('=')?;
        let key: &'static str = key.to_owned().leak();
        Some((key, value.trim_matches('\'').to_owned()))
    });
    let settings: Vec<_> = settings.collect();
    let system = System::start_with(&["box-office", "payment-worker"], settings)
        .await
        .unwrap();
    let page = reqwest::get(system.public_url("box-office")).await.unwrap();
    let page = page.text().await.unwrap();
    assert!(page.contains("no money moves, no mail leaves"), "{page}");
    let ready = reqwest::get(system.ops_url("box-office").join("readyz").unwrap());
    let ready = ready.await.unwrap().text().await.unwrap();
    for server in ["stripe", "mail"] {
        let shown = format!("\"{server}: a stand-in answers");
        assert!(ready.contains(&shown), "{ready}");
    }
    system.finish().await.unwrap();
}
